"""The query of a URL, read by name and checked; what nobody asked for is refused, not ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl

from bessemer.app.paging import PageRequest
from bessemer.core.errors import InvalidInput
from bessemer.gateway.failures import UnknownParameter

PAGING = ("after", "limit", "order")
_MOST_FIELDS = 200


class Query:
    """Values by name. `a[]=x&a[]=y`, `a[0]=x&a[1]=y`, `a=x&a=y` and `a=x` are all lists to `many`;
    `m[k]=v` is a mapping to `mapping`. What is the one is refused where the other is read.
    """

    def __init__(self, raw: bytes, allowed: Collection[str]) -> None:
        self._values: dict[str, list[str]] = {}
        self._mappings: dict[str, dict[str, str]] = {}
        for name, value in _fields(raw):
            stem, _, inner = name.partition("[")
            if stem not in allowed:
                raise UnknownParameter(name[:200])
            if inner in ("", "]"):
                self._values.setdefault(stem, []).append(value)
                continue
            mapping, inner = self._mappings.setdefault(stem, {}), inner.removesuffix("]")
            if inner in mapping:
                raise InvalidInput(f"'{name[:200]}' is given twice.", param=stem)
            mapping[inner] = value

    def text(self, name: str) -> str | None:
        """Raises InvalidInput where it is given more than once."""
        found = self._list(name)
        if len(found) > 1:
            raise InvalidInput(f"'{name}' is given {len(found)} times.", param=name)
        return found[0] if found else None

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        found = self.text(name)
        if found is not None and found not in choices:
            raise InvalidInput(
                f"'{name}' is {found[:100]!r}; it takes {', '.join(choices)}.", param=name
            )
        return found

    def whole(self, name: str, least: int, most: int) -> int | None:
        """A whole number from `least` to `most`."""
        found = self.text(name)
        if found is None:
            return None
        if not found.isascii() or not found.removeprefix("-").isdigit() or len(found) > 18:
            raise InvalidInput(f"'{name}' is {found[:100]!r}, which is no number.", param=name)
        if not least <= int(found) <= most:
            raise InvalidInput(f"'{name}' is {found}; it takes {least} to {most}.", param=name)
        return int(found)

    def truth(self, name: str) -> bool | None:
        found = self.choice(name, ("true", "false"))
        return None if found is None else found == "true"

    def many(self, name: str) -> list[str]:
        """Every value; one may hold several between commas."""
        return [part for value in self._list(name) for part in value.split(",")]

    def mapping(self, name: str) -> Mapping[str, str]:
        """Raises InvalidInput where it is no mapping."""
        for value in self._values.get(name, []):
            raise InvalidInput(
                f"'{name}' is {value[:100]!r}; it takes {name}[KEY]=VALUE.", param=name
            )
        return self._mappings.get(name, {})

    def is_null(self, name: str) -> bool:
        """Whether it is said to be none: `name=null`."""
        return self._values.get(name) == ["null"]

    def page(self, limit: int = 20, most: int = 100, order: str = "desc") -> PageRequest:
        """Which page: `after`, `before`, `limit` and `order`."""
        return PageRequest(
            limit=self.whole("limit", 1, most) or limit,
            order="asc" if (self.choice("order", ("asc", "desc")) or order) == "asc" else "desc",
            after=self.text("after"),
            before=self.text("before"),
        )

    def _list(self, name: str) -> list[str]:
        indexed = self._mappings.get(name, {})
        for index in indexed:
            if not index.isdigit():
                raise UnknownParameter(f"{name}[{index[:100]}]")
        return [*self._values.get(name, []), *indexed.values()]


def _fields(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as fault:
        raise InvalidInput(f"The query of the URL cannot be read: {fault}.") from None
