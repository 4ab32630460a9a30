"""A home with a tiny model and the keys of its owner, and `bessemer up` on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bessemer.app import admin_keys, names, projects
from bessemer.app.keys import create_key
from bessemer.app.platform import Platform
from bessemer.app.pull import pull
from bessemer.app.spending import set_prices
from bessemer.core.home import Home
from bessemer.core.principal import Principal
from tests.tiny.house import House
from tests.tiny.world import write_model

MODEL = "tiny"
CUSTOMERS = 12
CENTS_A_TOKEN = 1
PRICES = f"""
currency = "usd"
[[rates]]
model = "*"
prompt = 0
completion = {CENTS_A_TOKEN}0_000_000_000
training = 0
"""


class Customer(NamedTuple):
    """A project that has the model, and a key of a program in it."""

    project: str
    key: str


class Site(NamedTuple):
    """A server that answers. `key` may do everything in `project`."""

    url: str
    key: str
    admin_key: str
    project: str
    customers: Sequence[Customer]


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """The server, on a new home in `folder`; it and its runs end with the block."""
    root = folder / "home"
    source = folder / MODEL
    source.mkdir()
    with Platform.open(Home(root)) as platform:
        owner = platform.local_principal()
        model = pull(platform, owner, str(write_model(source)), name=MODEL)
        set_prices(platform, owner, PRICES, "the prices of the conformance")
        key = create_key(platform, owner, "conformance", ["*"]).secret
        customers = [_customer(platform, owner, model.digest, n) for n in range(CUSTOMERS)]
        admin_key = admin_keys.create(platform, owner, "conformance").key.secret
    house = House(root, key)
    try:
        with house.up("--model", MODEL) as server:
            server.wait_ready(MODEL)
            yield Site(server.url, key, admin_key, owner.project_id, customers)
    finally:
        house.clear()


def _customer(platform: Platform, owner: Principal, digest: str, number: int) -> Customer:
    there = replace(owner, project_id=projects.create(platform, owner, f"customer {number}").id)
    names.bind(platform, there, "model", MODEL, digest)
    return Customer(there.project_id, create_key(platform, there, "program", ["*"]).secret)
