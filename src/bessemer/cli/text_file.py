"""An argument that names a file of text."""

from __future__ import annotations

import os
from pathlib import Path

import click


class TextFile(click.Path):
    """The path of a file in UTF-8; what is none is refused before anything is done."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """See `click.ParamType.convert`."""
        super().convert(value, param, ctx)
        path = Path(value)
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as fault:
            self.fail(f"{path} is not UTF-8: byte {fault.start + 1}", param, ctx)
        return path
