"""What counts as a public symbol, how it is called, and what its docstring says first."""

import pytest

from bessemer.data.paragraphs import LONGEST, count_words, first_paragraph, mask
from bessemer.data.symbols import module_name, symbols_of

SOURCE = '''"""A module."""
import sys
def plain(a, /, b=1, *args, c: int, **more) -> int:
    """Plain."""
    def inner():
        """Not public: inside a function."""
def silent(): pass
def _private():
    """Private."""
if sys.platform == "win32":
    def somewhere():
        """On Windows."""
else:
    def somewhere():
        """Elsewhere."""
try:
    import x
except ImportError:
    async def fallback(): "Fall back."
class Thing(Base):
    """A thing."""
    def __init__(self, size, *, color=None): "Make."
    def method(self, a): "Do."
    @classmethod
    def build(cls, text): "Build."
    @staticmethod
    def helper(self_like): "Help."
    @property
    def size(self): "Its size."
    @size.setter
    def size(self, value): "Set."
    def __len__(self): "Length."
    def __mangled(self): "Private."
    class Part:
        """A part."""
        def turn(self, /, by): "Turn."
class _Hidden:
    """Private."""
    def method(self): "Of a private class."
'''


def test_public_documented_symbols_in_order() -> None:
    found = [
        (symbol.path, symbol.kind, symbol.signature) for symbol in symbols_of(SOURCE, "pkg.mod")
    ]
    assert found == [
        ("", "module", "pkg.mod"),
        ("plain", "function", "pkg.mod.plain(a, /, b=1, *args, c: int, **more)"),
        ("somewhere", "function", "pkg.mod.somewhere()"),
        ("fallback", "function", "pkg.mod.fallback()"),
        ("Thing", "class", "pkg.mod.Thing(size, *, color=None)"),
        ("Thing.__init__", "method", "pkg.mod.Thing.__init__(size, *, color=None)"),
        ("Thing.method", "method", "pkg.mod.Thing.method(a)"),
        ("Thing.build", "method", "pkg.mod.Thing.build(text)"),
        ("Thing.helper", "method", "pkg.mod.Thing.helper(self_like)"),
        ("Thing.size", "property", "pkg.mod.Thing.size"),
        ("Thing.__len__", "method", "pkg.mod.Thing.__len__()"),
        ("Thing.Part", "class", "pkg.mod.Thing.Part"),
        ("Thing.Part.turn", "method", "pkg.mod.Thing.Part.turn(by)"),
    ]


def test_names_of_a_symbol() -> None:
    symbols = {symbol.path: symbol for symbol in symbols_of(SOURCE, "pkg.mod")}
    turn, module = symbols["Thing.Part.turn"], symbols[""]
    assert (turn.dotted, turn.own_name, turn.container) == (
        "pkg.mod.Thing.Part.turn", "turn", "pkg.mod.Thing.Part",
    )  # fmt: skip
    assert (module.dotted, module.own_name, module.container) == ("pkg.mod", "pkg.mod", "")
    assert turn.line == SOURCE.splitlines().index('        def turn(self, /, by): "Turn."') + 1


def test_a_very_long_signature_is_shortened() -> None:
    source = f"def f({', '.join(f'argument_{i}=None' for i in range(40))}): 'Doc.'"
    assert [symbol.signature for symbol in symbols_of(source, "m")] == ["m.f(...)"]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("json/__init__.py", "json"),
        ("json/decoder.py", "json.decoder"),
        ("_pydecimal.py", "decimal"),
        ("concurrent/futures/_base.py", "concurrent.futures"),
        ("_strptime.py", None),
        ("re/_parser.py", None),
        ("__future__.py", None),
        ("turtledemo/__main__.py", None),
    ],
)
def test_private_modules_have_no_name_unless_they_hold_a_public_one(
    source: str, module: str | None
) -> None:
    assert module_name(source) == module


@pytest.mark.parametrize(
    ("docstring", "paragraph"),
    [
        ("Return the\n   joined path.\n\nMore.", "Return the joined path."),
        ("join(a, *p) -> str\n\nJoin two or more paths.", "Join two or more paths."),
        ("join(a, *p)", None),
        ("x" * (LONGEST + 1), None),
        ("It does one thing. " * 50, ("It does one thing. " * 31).strip()),
        ("Reads all of it.  Keys are:\n\n  a", "Reads all of it."),
        ("The keys are:\n\n  a", None),
        (">>> a_long_example_of_words()\nthat is no prose", None),
        ("+--+--+\n|  |  |\n+--+--+", None),
        ("Close it", None),
        ("", None),
    ],
)
def test_the_first_paragraph_is_prose_or_nothing(docstring: str, paragraph: str | None) -> None:
    assert first_paragraph(docstring) == paragraph


def test_a_name_is_masked_only_where_it_stands_alone() -> None:
    assert mask("join, os.path.join(a) and joined; JOIN join_all", "join") == (
        "____, os.path.____(a) and joined; JOIN join_all"
    )
    assert mask("xml.dom and axml.dom, xml_dom", "xml.dom") == "____ and axml.dom, xml_dom"
    assert count_words("____ it, 2 times") == 2
