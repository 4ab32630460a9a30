"""Options that are a quantity with its unit: `8GB`, `15m`. A number without one is refused."""

from __future__ import annotations

import re

import click

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Size(click.ParamType[int]):
    """Bytes, as an int."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        return int(self._read(str(value), param, ctx))

    def _read(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _NUMBER.fullmatch(text.strip())
        unit = {name.lower(): size for name, size in _BYTES.items()}
        if found is None or found[2].lower() not in unit or float(found[1]) <= 0:
            self.fail(f"{text!r} is not a size; write 8GB, 512MB or 6GiB", param, ctx)
        return float(found[1]) * unit[found[2].lower()]


class Duration(click.ParamType[float]):
    """Seconds, as a float."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = _NUMBER.fullmatch(str(value).strip())
        if found is None or found[2] not in _SECONDS or float(found[1]) <= 0:
            self.fail(f"{value!r} is not a duration; write 15m, 90s or 2h", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]
