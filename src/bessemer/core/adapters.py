"""What ties an adapter to its base: a file beside its weights, so that its digest names both.

The same matrices over another base are another model. What PEFT writes names its base by a path
or a hub's name, which may mean anything tomorrow; `base.json` names it by digest. PEFT reads past
it.
"""

from __future__ import annotations

import json
from pathlib import Path

from bessemer.core.errors import IntegrityError

BASE = "base.json"


def write_base(folder: Path, digest: str) -> None:
    """Say that the adapter in `folder` belongs to the model with this digest."""
    (folder / BASE).write_text(json.dumps({"digest": digest}) + "\n")


def base_of(folder: Path) -> str | None:
    """The digest of the adapter's base; None where the folder does not say.

    Raises:
        IntegrityError: the file is there and is not what `write_base` writes.
    """
    try:
        return str(json.loads((folder / BASE).read_text())["digest"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise IntegrityError(f"{folder / BASE} does not name a model: {fault!r}") from fault
