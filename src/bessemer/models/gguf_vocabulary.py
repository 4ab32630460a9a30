"""A Hugging Face folder's tokenizer as a GGUF header: `gguf_tokenizer` the other way round.

llama.cpp splits text by a splitter that it knows by name. The folder's own is compared with each
of them; one that is none of these is refused, since another would give wrong ids without an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from gguf import GGUFWriter

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.config import ModelConfig
from bessemer.models.gguf_tokenizer import (
    CONTROL,
    LLAMA3,
    NORMAL,
    SPLITTERS,
    USER_DEFINED,
    pre_tokenizer,
)

UNUSED = 5
# A header has a place for each: what ends a text, a turn and a message.
END_ROLES = ("eos", "eot", "eom")
Template = str | list[dict[str, str]]


class Vocabulary(NamedTuple):
    """What a header says of a tokenizer. `ids` are by role, as in `tokenizer.ggml.eos_token_id`."""

    splitter: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    adds_bos: bool
    adds_eos: bool
    template: Template | None

    def write(self, writer: GGUFWriter) -> None:
        """Add the keys of a byte-level BPE."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.splitter)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for role, id_ in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{role}_token_id", id_)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.template is not None:
            writer.add_chat_template(self.template)


def read_vocabulary(folder: Path, config: ModelConfig) -> Vocabulary:
    """The tokenizer of `folder`, padded to the rows of its embedding.

    Raises:
        InvalidInput: a kind of tokenizer, splitter or special token that GGUF cannot say, or that
            llama.cpp would read otherwise.
        IntegrityError: there is no tokenizer, or more tokens than embeddings.
    """
    tree, backend = _open(folder)
    splitter = _splitter(tree, backend)
    settings = _read(folder, "special_tokens_map.json") | _read(folder, "tokenizer_config.json")
    tokens, types = _tokens(tree, backend, config.vocab_size)
    ids = _ids(settings, _read(folder, "generation_config.json"), config, backend)
    adds_bos, adds_eos = _around(backend, settings, ids)
    return Vocabulary(
        splitter=splitter,
        tokens=tokens,
        types=types,
        merges=[_merge(pair) for pair in tree["model"]["merges"]],
        ids=ids,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        template=_template(folder, settings),
    )


def _open(folder: Path) -> tuple[dict[str, Any], tokenizers.Tokenizer]:
    path = folder / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as fault:  # the binding raises bare Exception
        raise IntegrityError(f"{path} is not a tokenizer: {fault}") from fault
    backend.no_truncation()
    backend.no_padding()
    tree: dict[str, Any] = json.loads(backend.to_str())
    model = tree["model"]
    strange = [key for key in _UNSAID if model.get(key)]
    if model["type"] != "BPE" or (tree["decoder"] or {}).get("type") != "ByteLevel" or strange:
        kind = f"{model['type']} with {', '.join(strange)}" if strange else model["type"]
        raise InvalidInput(f"only byte-level BPE can be exported to GGUF; this tokenizer is {kind}")
    return tree, backend


_UNSAID = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout")


def _splitter(tree: dict[str, Any], backend: tokenizers.Tokenizer) -> str:
    own = _state(backend.pre_tokenizer)
    name = next((name for name in SPLITTERS if _state(pre_tokenizer(name)) == own), None)
    if name is None:
        raise InvalidInput(
            f"llama.cpp has no name for this tokenizer's pre-tokenizer, {json.dumps(own)[:300]};"
            f" known are {', '.join(SPLITTERS)}"
        )
    ignored = bool(tree["model"].get("ignore_merges"))
    if ignored != (name in LLAMA3):
        raise InvalidInput(
            f"ignore_merges is {ignored} with the pre-tokenizer {name!r}; llama.cpp ignores merges"
            " for llama-bpe and only for it"
        )
    normalizer = (tree["normalizer"] or {}).get("type")
    if normalizer is not None and (normalizer, name) != ("NFC", "qwen2"):
        raise InvalidInput(f"the normalizer {normalizer!r} with {name!r} is not one of llama.cpp's")
    return name


def _state(splitter: Any) -> Any:
    """A pre-tokenizer's description, without what only moves offsets."""
    if splitter is None:
        return None
    return json.loads(splitter.__getstate__(), object_hook=_without_offsets)


def _without_offsets(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != "trim_offsets"}


def _tokens(
    tree: dict[str, Any], backend: tokenizers.Tokenizer, rows: int
) -> tuple[list[str], list[int]]:
    """Texts and types of all ids; ids without a token are filled as llama.cpp's converter does."""
    known = {id_: token for token, id_ in backend.get_vocab(with_added_tokens=True).items()}
    if max(known, default=-1) >= rows:
        raise IntegrityError(
            f"the tokenizer has a token {max(known)}; the model has embeddings of {rows} tokens"
        )
    added = {token["id"]: token for token in tree["added_tokens"]}
    for token in added.values():
        if greedy := [key for key in ("lstrip", "rstrip", "single_word") if token[key]]:
            raise InvalidInput(
                f"the token {token['content']!r} has {', '.join(greedy)}, which GGUF cannot say"
            )
    tokens = [known.get(id_, f"[PAD{id_}]") for id_ in range(rows)]
    return tokens, [_type(id_, known, added) for id_ in range(rows)]


def _type(id_: int, known: dict[int, str], added: dict[int, dict[str, Any]]) -> int:
    if id_ in added:
        return CONTROL if added[id_]["special"] else USER_DEFINED
    return NORMAL if id_ in known else UNUSED


def _merge(pair: list[str]) -> str:
    if any(" " in part for part in pair):
        raise InvalidInput(f"the merge {pair} has a space, which stands between the two in GGUF")
    return " ".join(pair)


def _ids(
    settings: dict[str, Any],
    generation: dict[str, Any],
    config: ModelConfig,
    backend: tokenizers.Tokenizer,
) -> dict[str, int]:
    named = {
        role: _id(settings.get(f"{key}_token"), backend)
        for role, key in {"bos": "bos", "unknown": "unk", "padding": "pad"}.items()
    }
    if named["bos"] is None:
        named["bos"] = config.bos_token_id
    if named["padding"] is None:
        named["padding"] = config.pad_token_id
    ids = {role: id_ for role, id_ in named.items() if id_ is not None}
    ends = _end_ids(_id(settings.get("eos_token"), backend), generation, config)
    ids |= dict(zip(END_ROLES, ends, strict=False))
    for role, id_ in ids.items():
        if not 0 <= id_ < config.vocab_size:
            raise IntegrityError(f"the {role} token is {id_} of {config.vocab_size} tokens")
    return ids


def _id(token: Any, backend: tokenizers.Tokenizer) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(text) if isinstance(text, str) else None


def _end_ids(eos: int | None, generation: dict[str, Any], config: ModelConfig) -> list[int]:
    """Every id that ends an answer, as `text.special_tokens` finds them, EOS itself first."""
    found = [] if eos is None else [eos]
    found += _many(generation.get("eos_token_id"))
    ends = list(dict.fromkeys(found or _many(config.eos_token_id)))
    if len(ends) > len(END_ROLES):
        raise InvalidInput(
            f"{len(ends)} tokens end an answer of this model, {ends}; GGUF has {len(END_ROLES)}"
            " places for them",
            next_step="leave the ones it was taught with in generation_config.json",
        )
    return ends


def _many(ids: Any) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]


def _around(
    backend: tokenizers.Tokenizer, settings: dict[str, Any], ids: dict[str, int]
) -> tuple[bool, bool]:
    """Whether BOS is put before and EOS after every text."""
    bare, dressed = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    start = dressed.index(bare[0]) if bare and bare[0] in dressed else 0
    before, after = dressed[:start], dressed[start + len(bare) :]
    bos, eos = [ids.get("bos")], [ids.get("eos")]
    if before not in ([], bos) or after not in ([], eos):
        raise InvalidInput(
            f"this tokenizer puts tokens {before} before and {after} after every text; GGUF can"
            " only say BOS before and EOS after"
        )
    stated = settings.get("add_bos_token")
    return (bool(before) if stated is None else bool(stated) and bos != [None]), bool(after)


def _template(folder: Path, settings: dict[str, Any]) -> Template | None:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        tree = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as fault:
        raise IntegrityError(f"{folder / name} is not JSON: {fault}") from fault
    return tree if isinstance(tree, dict) else {}
