"""What a grader's Python may import beside the standard library, and where that is.

    require_modules("import rapidfuzz ...", "grader.source")    # InvalidInput, if it is not here
    packages_of("import numpy as np ...")                       # what the sandbox has to show

OpenAI's graders have the packages of `OFFERED`. Here they have those of them that are installed
beside the server; numpy always is. Each is shown with what it needs, and nothing else of the host.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from bessemer.core.errors import InvalidInput

OFFERED = {
    "ast_grep_py": "ast-grep-py",
    "deepdiff": "deepdiff",
    "jsonschema": "jsonschema",
    "nltk": "nltk",
    "numpy": "numpy",
    "pandas": "pandas",
    "pydantic": "pydantic",
    "rapidfuzz": "rapidfuzz",
    "rdkit": "rdkit",
    "rouge_score": "rouge-score",
    "scipy": "scipy",
    "skbio": "scikit-bio",
    "sklearn": "scikit-learn",
    "sqlparse": "sqlparse",
    "sympy": "sympy",
    "yaml": "pyyaml",
}
"""Modules by name, and the distributions that bring them."""

_NAME = re.compile(r"[\w.-]+")


def require_modules(source: str, place: str) -> None:
    """Raises InvalidInput where it imports, other than within a `try`, what is not there."""
    for name in _imported(source, tried=False):
        if name in sys.stdlib_module_names:
            continue
        if name not in OFFERED:
            there = ", ".join(sorted(name for name in OFFERED if _is_here(name)))
            raise InvalidInput(
                f"'{place}' imports {name[:100]!r}, which graders do not have; beside the standard"
                f" library they have {there}",
                param=place,
            )
        if not _is_here(name):
            raise InvalidInput(
                f"'{place}' imports {name!r}, which is not installed on this server",
                next_step=f"pip install {OFFERED[name]}, where the server runs",
                param=place,
            )


@functools.lru_cache(256)
def packages_of(source: str) -> tuple[Path, ...]:
    """Files and folders of all that it may import, and of what these need."""
    found: dict[Path, None] = {}
    seen: set[str] = set()
    for name in _imported(source, tried=True):
        if name in OFFERED:
            found |= dict.fromkeys(_parts(OFFERED[name], seen))
    return tuple(found)


def _imported(source: str, *, tried: bool) -> list[str]:
    """Names of top-level modules; with `tried` also those of which the source can do without."""
    found: dict[str, None] = {}
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        match node:
            case ast.Import():
                found |= dict.fromkeys(one.name.partition(".")[0] for one in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                found[module.partition(".")[0]] = None
            case ast.Try(handlers=[_, *_]) if not tried:
                left += [*node.handlers, *node.orelse, *node.finalbody]
            case _:
                left += ast.iter_child_nodes(node)
    return list(found)


def _is_here(name: str) -> bool:
    try:
        metadata.distribution(OFFERED[name])
    except metadata.PackageNotFoundError:
        return False
    return True


def _parts(distribution: str, seen: set[str]) -> Iterator[Path]:
    """What lies in site-packages of a distribution and of those that it requires."""
    name = distribution.lower().replace("_", "-")
    if name in seen:
        return
    seen.add(name)
    try:
        here = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return  # one for another system, or an extra
    tops = {file.parts[0] for file in here.files or ()} - {"..", "__pycache__"}
    yield from (Path(str(here.locate_file(top))) for top in sorted(tops))
    for required in here.requires or ():
        needed = _NAME.match(required)
        if needed is not None and "extra ==" not in required:
            yield from _parts(needed[0], seen)
