"""A model of a hub, fetched through `huggingface_hub` (an optional extra) into a plain folder.

Only what is the model is asked for: safetensors, configuration, tokenizer, template, licence.
Pickled weights are never fetched. Which hub is `HF_ENDPOINT`'s to say, and which token
`huggingface_hub`'s own settings. Not here: checking and storing the folder (`pull`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bessemer.core.digests import check_file, sha256_bytes
from bessemer.core.errors import (
    IntegrityError,
    InvalidInput,
    Missing,
    NotFound,
    PermissionDenied,
    UnsafeWeights,
)

PREFIX = "hf:"
INFO_TIMEOUT_S = 30.0

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ADDRESS = re.compile(rf"hf:({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LICENCE = re.compile(r"LICEN[CS]E(\.(txt|md))?", re.IGNORECASE)
# Model cards spell SPDX's identifiers in lower case.
_SPDX = {
    name.lower(): name for name in ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0")
}  # fmt: skip


class Address(NamedTuple):
    """`hf:OWNER/NAME[@revision]`; a revision is a branch, a tag or a commit."""

    repository: str
    revision: str | None

    @classmethod
    def of(cls, text: str) -> Address:
        """Raises InvalidInput: `text` is no address."""
        found = _ADDRESS.fullmatch(text)
        if found is None or ".." in text:
            raise InvalidInput(
                f"{text!r} is no address of a model", next_step="hf:OWNER/NAME or hf:OWNER/NAME@TAG"
            )
        return cls(found[1], found[2])

    @property
    def name(self) -> str:
        return self.repository.partition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """Whether it says the same forever: a whole commit."""
        return self.revision is not None and bool(_COMMIT.fullmatch(self.revision))


class Fetched(NamedTuple):
    """A folder with the model in it, the licence that its card states, and where it came from."""

    folder: Path
    licence: str | None
    provenance: dict[str, Any]


class _File(NamedTuple):
    name: str
    size_bytes: int
    sha256: str | None


def fetch(address: Address, cache: Path, say: Callable[[str], None]) -> Fetched:
    """Fetch the model's files into a folder below `cache`, named by repository and commit.

    Files that are whole are kept for the next try if one fails; half a file begins anew.

    Raises:
        Missing: the extra is not installed.
        NotFound: no such repository or revision, or the hub cannot be reached.
        PermissionDenied: the hub wants a token, or the terms agreed to.
        UnsafeWeights: there are only pickled weights; nothing is fetched.
        IntegrityError: bytes are not those that the hub has listed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise Missing(
            "pulling from a hub needs huggingface_hub, which is not installed here",
            next_step='pip install "bessemer[hub]"',
        )
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with _explained(address, api.endpoint):
        info = api.model_info(
            address.repository,
            revision=address.revision,
            files_metadata=True,
            timeout=INFO_TIMEOUT_S,
        )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise IntegrityError(f"the hub names no commit for {address.repository}: {commit!r}")
    files = _chosen(address, [_file(one) for one in info.siblings or ()])
    key = sha256_bytes(f"{api.endpoint}\n{address.repository}\n{commit}".encode())
    folder = cache / "hub" / key[:32]
    total_bytes = sum(file.size_bytes for file in files)
    say(f"fetching {address.repository} at {commit[:12]}: {total_bytes / 1e6:.1f} MB")
    for number, file in enumerate(files, 1):
        say(f"{number} of {len(files)}: {file.name} ({file.size_bytes / 1e6:.1f} MB)")
        with _explained(address, api.endpoint):
            hf_hub_download(
                address.repository,
                file.name,
                revision=commit,
                local_dir=folder,
                endpoint=api.endpoint,
            )
        _check(folder / file.name, file.sha256)
    provenance = {
        "hub": urlsplit(api.endpoint).hostname,
        "repository": address.repository,
        "revision": commit,
        "asked_revision": address.revision,
    }
    return Fetched(folder, _licence(info), provenance)


def licence_files(folder: Path) -> list[Path]:
    """The licence's text, by whichever of its usual names."""
    return sorted(path for path in folder.iterdir() if _LICENCE.fullmatch(path.name))


def _check(path: Path, sha256: str | None) -> None:
    """Hold a file against the digest that is listed; wrong bytes do not stay for the next try."""
    if sha256 is None:
        return
    try:
        check_file(path, sha256)
    except IntegrityError as fault:
        path.unlink()
        raise IntegrityError(
            fault.message, next_step="pull again; these bytes are deleted, the other files are kept"
        ) from fault


def _file(sibling: Any) -> _File:
    return _File(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)


def _chosen(address: Address, files: Sequence[_File]) -> list[_File]:
    """What is the model, small files first: a wrong one ends the work before the weights."""
    from bessemer.models.folder import COMPANIONS, INDEX, PICKLED, SINGLE

    names = {file.name for file in files}
    weights = {name for name in names if name.endswith(".safetensors") and "/" not in name}
    if INDEX not in names:
        weights &= {SINGLE}
    if not weights:
        pickled = sorted(name for name in names if Path(name).suffix in PICKLED)
        if pickled:
            raise UnsafeWeights(
                f"{address.repository} has pickled weights only ({', '.join(pickled[:3])}), which"
                " can run code when they are read; nothing was fetched",
                next_step="ask the publisher for safetensors, or pull another model",
            )
        raise InvalidInput(
            f"{address.repository} has neither {SINGLE} nor {INDEX}",
            next_step="if it holds GGUF files, download one and give its path",
        )
    if INDEX in names:
        weights -= {SINGLE}  # the index says what counts
    beside = {"config.json", INDEX, *COMPANIONS} | set(filter(_LICENCE.fullmatch, names))
    chosen = [file for file in files if file.name in weights | beside]
    return sorted(chosen, key=lambda file: (file.name in weights, file.name))


def _licence(info: Any) -> str | None:
    """As the model card states it; a licence of its own by the name it gives it."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    stated = card.get("license")
    if stated == "other":
        stated = card.get("license_name") or stated
    return _SPDX.get(stated.lower(), stated) if isinstance(stated, str) and stated else None


@contextlib.contextmanager
def _explained(address: Address, endpoint: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    import httpx2  # which huggingface_hub brings
    from huggingface_hub import errors

    where = urlsplit(endpoint).hostname or endpoint
    again = f"bessemer pull {PREFIX}{address.repository}"
    try:
        yield
    except errors.OfflineModeIsEnabled as fault:
        raise NotFound(
            f"HF_HUB_OFFLINE is set, so {address.repository} was not asked for",
            next_step="unset HF_HUB_OFFLINE, or give a folder's path",
        ) from fault
    except errors.GatedRepoError as fault:
        raise PermissionDenied(
            f"{address.repository} is given only to those who agreed to its terms",
            next_step="agree on its page, export HF_TOKEN=..., and pull again",
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise NotFound(
            f"{address.repository} has no revision {address.revision!r}",
            next_step=f"{again} takes its main branch",
        ) from fault
    except errors.HfHubHTTPError as fault:
        raise _refusal(address, where, fault.response.status_code) from fault
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as fault:
        raise NotFound(
            f"{where} could not be reached, or broke off: {type(fault).__name__}",
            next_step="check the network, or set HF_ENDPOINT to a mirror; files that are whole are"
            " kept for the next try",
        ) from fault
    except (errors.FileMetadataError, OSError, ValueError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            raise  # the disk's, not the hub's
        raise IntegrityError(
            f"{where} did not send what it listed of {address.repository}: {fault}",
            next_step="pull again; files that are whole are kept",
        ) from fault


def _refusal(address: Address, where: str, status: int) -> NotFound | PermissionDenied:
    if status in (401, 403):
        # A hub says so of private repositories and of those that do not exist.
        return PermissionDenied(
            f"{where} does not show {address.repository} to us (status {status}): it is private,"
            " or there is none",
            next_step="check the name; for a private one export HF_TOKEN=... and pull again",
        )
    if status == 404:
        return NotFound(
            f"{where} has no {address.repository}, or lost a file of it",
            next_step="check OWNER/NAME",
        )
    return NotFound(
        f"{where} could not serve {address.repository}: status {status}",
        next_step="pull again later; files that are whole are kept",
    )
