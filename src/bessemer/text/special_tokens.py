"""Which tokens a model folder calls BOS and EOS, and by what names a template knows them.

Facts come from `tokenizer_config.json`, the older `special_tokens_map.json` and
`generation_config.json`; this file only reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.errors import InvalidInput

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class SpecialTokens(NamedTuple):
    """`adds_bos` is None when the folder leaves it to tokenizer.json."""

    eos_ids: frozenset[int]
    bos_id: int | None
    adds_bos: bool | None


def read_special_tokens(folder: Path, id_of: Callable[[str], int | None]) -> SpecialTokens:
    """Every end-of-sequence id that any file of the folder names, and the BOS token's id.

    Raises:
        InvalidInput: a file is not JSON, or names an id that is no number.
    """
    texts = special_texts(folder)
    eos_ids = _eos_ids(folder)
    eos = id_of(texts["eos_token"]) if "eos_token" in texts else None
    if eos is not None:
        eos_ids.add(eos)
    bos_id = id_of(texts["bos_token"]) if "bos_token" in texts else None
    adds_bos = read_config(folder / "tokenizer_config.json").get("add_bos_token")
    return SpecialTokens(frozenset(eos_ids), bos_id, adds_bos)


def special_texts(folder: Path) -> dict[str, str]:
    """`{"eos_token": "<|im_end|>", ...}`, only what the folder names."""
    config = read_config(folder / "special_tokens_map.json")
    config |= read_config(folder / "tokenizer_config.json")
    texts = {}
    for name in NAMES:
        value = config.get(name)
        # Older files store an added token as an object.
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            texts[name] = text
    return texts


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is no such file.

    Raises:
        InvalidInput: there is one, and it is not a JSON object.
    """
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as fault:
        raise InvalidInput(f"{path} is not JSON: {fault}") from fault
    if not isinstance(config, dict):
        raise InvalidInput(f"{path} holds a {type(config).__name__}; expected a JSON object")
    return config


def _eos_ids(folder: Path) -> set[int]:
    path = folder / "generation_config.json"
    found = read_config(path).get("eos_token_id")
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise InvalidInput(f"{path} has eos_token_id {found!r}; expected an id or a list of ids")
    return set(ids)
