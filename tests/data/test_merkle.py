"""Merkle trees: roots known from Certificate Transparency, proofs that hold for one leaf only."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bessemer.data.merkle import EMPTY_ROOT, leaf_hash, prove, root_of

# The eight leaves and roots that implementations of RFC 6962 are tested with.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def test_roots_are_those_of_the_rfc() -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert {count: root_of(hashes[:count]).hex() for count in ROOTS} == ROOTS
    assert root_of([]) == EMPTY_ROOT


@settings(deadline=None)
@given(leaves=st.lists(st.binary(max_size=4), min_size=1, max_size=40, unique=True), data=st.data())
def test_a_proof_holds_for_its_leaf_and_no_other(leaves: list[bytes], data: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    root, number = root_of(hashes), data.draw(st.integers(0, len(leaves) - 1))
    proof = prove(hashes, number)
    assert proof.root(leaves[number]) == root
    other = data.draw(st.binary(max_size=4).filter(lambda leaf: leaf != leaves[number]))
    assert proof.root(other) != root


def test_an_inner_node_cannot_pass_for_a_leaf() -> None:
    one, other = (leaf_hash(leaf) for leaf in (b"a", b"b"))
    assert root_of([leaf_hash(one + other)]) != root_of([one, other])
