"""Take a model out: one file for another engine, with the digest of what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from bessemer.app.models import find_model_local
from bessemer.app.platform import Platform
from bessemer.app.pull import need_torch
from bessemer.core.digests import DIGEST_PREFIX, sha256_file
from bessemer.core.principal import Principal

if TYPE_CHECKING:
    from bessemer.models.gguf_export import Progress

GgufPrecision = Literal["bf16", "q8_0", "q4_0"]


class ExportedFile(NamedTuple):
    """`parent` is the digest of the model; `tensors` says how many there are of each type."""

    path: Path
    digest: str
    size_bytes: int
    parent: str
    tensors: dict[str, int]


def export_gguf(
    platform: Platform,
    principal: Principal,
    model: str,
    precision: GgufPrecision,
    *,
    output: Path | None = None,
    progress: Progress = lambda _done, _total: None,
) -> ExportedFile:
    """A model, by name, digest or path, as a GGUF file.

    Args:
        output: by default the model's name and the precision, in the current folder.

    Raises:
        NotFound: no such model.
        BessemerError: as `models.gguf_export.export_gguf`.
    """
    principal.require("models:read")
    need_torch("converting a model")
    from bessemer.models import gguf_export

    named = find_model_local(platform, principal, model)
    path = output or Path(f"{named.name.replace('/', '-')}-{precision}.gguf")
    about = gguf_export.About(named.name, named.digest, named.artifact.licence)
    made = gguf_export.export_gguf(named.path, path.absolute(), precision, about, progress)
    digest = DIGEST_PREFIX + sha256_file(made.path)
    return ExportedFile(made.path, digest, made.size_bytes, named.digest, made.tensors)
