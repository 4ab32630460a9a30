"""The public symbols of Python source, with signature and docstring, read through `ast`.

Nothing is imported or run. What is private (a name with one leading underscore, anywhere on the
path) is left out, as are the parts of a property beyond its getter.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["module", "class", "function", "method", "property"]
Function = ast.FunctionDef | ast.AsyncFunctionDef

LONGEST_SIGNATURE = 200  # characters
# Files that hold a public module's Python code.
PUBLIC_NAME = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "concurrent.futures._base": "concurrent.futures",
    "importlib._abc": "importlib.abc",
    "pathlib._local": "pathlib",
    "zoneinfo._zoneinfo": "zoneinfo",
}
_SPECIAL = re.compile(r"__\w+__")


class Symbol(NamedTuple):
    """One documented name.

    `path` is its name within the module (`Popen.wait`; empty for a module), `signature` how a
    caller writes it (`subprocess.Popen.wait(timeout=None)`), `line` where it is defined.
    """

    module: str
    path: str
    kind: Kind
    signature: str
    docstring: str
    line: int

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.path}" if self.path else self.module

    @property
    def own_name(self) -> str:
        """`wait`; for a module, which has no container to be named in, all of `xml.dom`."""
        return self.path.rpartition(".")[2] or self.module

    @property
    def container(self) -> str:
        return self.dotted.rpartition(".")[0] if self.path else ""


def module_name(source_name: str) -> str | None:
    """`json/decoder.py` is `json.decoder`; None for a private module.

    >>> module_name("json/__init__.py"), module_name("_pyio.py"), module_name("re/_parser.py")
    ('json', 'io', None)
    """
    name = source_name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    name = PUBLIC_NAME.get(name, name)
    return None if any(part.startswith("_") for part in name.split(".")) else name


def symbols_of(source: str, module: str) -> Iterator[Symbol]:
    """Every public documented symbol of a module, in source order, each name once."""
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree)
    if docstring:
        yield Symbol(module, "", "module", module, docstring, 1)
    seen: set[str] = set()
    for symbol in _inside(tree, module, ()):
        if symbol.path not in seen:
            seen.add(symbol.path)
            yield symbol


def _inside(scope: ast.AST, module: str, outer: tuple[str, ...]) -> Iterator[Symbol]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | Function):
            if not _is_public(node):
                continue
            path = (*outer, node.name)
            docstring = ast.get_docstring(node)
            if docstring:
                kind = _kind(node, in_class=bool(outer))
                signature = f"{module}.{'.'.join(path)}{_arguments(node, kind, outer)}"
                yield Symbol(module, ".".join(path), kind, signature, docstring, node.lineno)
            if isinstance(node, ast.ClassDef):
                yield from _inside(node, module, path)
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _inside(node, module, outer)


def _is_public(node: ast.ClassDef | Function) -> bool:
    if node.name.startswith("_") and not _SPECIAL.fullmatch(node.name):
        return False
    return not any(
        isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter")
        for decorator in node.decorator_list
    )


def _kind(node: ast.ClassDef | Function, *, in_class: bool) -> Kind:
    if isinstance(node, ast.ClassDef):
        return "class"
    if not in_class:
        return "function"
    return "property" if _decorators(node) & {"property", "cached_property"} else "method"


def _arguments(node: ast.ClassDef | Function, kind: Kind, outer: tuple[str, ...]) -> str:
    """What a caller writes after the name: `(timeout=None)`, without `self`."""
    if kind == "property":
        return ""
    function = _constructor(node) if isinstance(node, ast.ClassDef) else node
    if function is None:
        return ""
    text = ast.unparse(function.args)
    is_bound = kind != "function" and "staticmethod" not in _decorators(function)
    if is_bound:
        text = re.sub(r"^\w+(, /)?(, |$)", "", text)
    return f"({text})" if len(text) <= LONGEST_SIGNATURE else "(...)"


def _constructor(node: ast.ClassDef) -> Function | None:
    for child in node.body:
        if isinstance(child, Function) and child.name == "__init__":
            return child
    return None


def _decorators(node: Function) -> set[str]:
    return {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
