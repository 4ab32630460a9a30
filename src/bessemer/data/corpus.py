"""Documents every machine with Python has: the standard library's source, and its help topics.

They are read as files and never imported. `split_of` decides, for every dataset of the house,
which documents may be trained on.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from bessemer.core.errors import Missing

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LICENCE = "PSF-2.0"

# Tests and bundled programs are no library; encodings are tables; topics must stay unrelated.
LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages"}
    | {"__pycache__", "__phello__", "encodings", "pydoc_data", "lib-dynload"}
)


class Document(NamedTuple):
    """One text. `id` is its name below its source; `licence` an SPDX expression, where known."""

    id: str
    text: str
    licence: str | None


def split_of(key: str, *, seed: int = 0) -> Split:
    """Which split `key` belongs to: 90% train, 5% validation, 5% test, by hash.

    Adding documents never moves a key, and the same key is in the same split in every dataset.
    """
    share = split_order(key, seed=seed)
    return "train" if share < 0.90 else "validation" if share < 0.95 else "test"


def split_order(key: str, *, seed: int = 0) -> float:
    """The number in [0, 1) that decides the split of `key`."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    # 53 bits: every value is an exact float below 1.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def stdlib_sources() -> Iterator[Document]:
    """Every source file of the standard library, sorted by name, one in memory at a time.

    Raises:
        Missing: this interpreter came without its source.
    """
    for path in source_files():
        text = read_source(path)
        if text.strip():
            yield Document(source_name(path), text, LICENCE)


def topics() -> list[Document]:
    """The language reference's help topics: prose about Python that is no library's docstring.

    Raises:
        Missing: this interpreter came without them.
    """
    path = _library() / "pydoc_data" / "topics.py"
    if not path.is_file():
        raise _missing("the help topics (pydoc_data/topics.py)")
    table = _topics_table(read_source(path))
    return [Document(f"topics/{name}", table[name], LICENCE) for name in sorted(table)]


def source_files() -> list[Path]:
    """The standard library's files, sorted by their POSIX names.

    Raises:
        Missing: there is none.
    """
    library = _library()
    found = [
        Path(folder, name)
        for folder, inside, names in os.walk(library)
        if _keep_library_folders(inside)
        for name in names
        # A machine's build settings hold its paths.
        if name.endswith(".py") and not name.startswith("_sysconfigdata")
    ]
    if not found:
        raise _missing("the standard library's source")
    return sorted(found, key=source_name)


def read_source(path: Path) -> str:
    """A Python file's text by its own declared encoding, with line feeds only."""
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = data.decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def source_name(path: Path) -> str:
    """`json/decoder.py`."""
    return path.relative_to(_library()).as_posix()


def _keep_library_folders(names: list[str]) -> bool:
    """Prune `os.walk`, which descends only into what is left in `names`."""
    names[:] = [name for name in names if name not in LEFT_OUT and not name.startswith("config-")]
    return True


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _topics_table(source: str) -> dict[str, str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "topics":
            table: dict[str, str] = ast.literal_eval(node.value)
            return table
    raise _missing("the table of help topics")


def _missing(what: str) -> Missing:
    return Missing(
        f"{what} did not come with this Python",
        next_step="use a Python with its full standard library (python.org, pyenv, uv, conda)",
    )
