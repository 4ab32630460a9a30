"""The tokenizer inside a GGUF file, written as `tokenizer.json` and `tokenizer_config.json`.

Byte-level BPE only (`tokenizer.ggml.model` = gpt2), with the pre-tokenizers listed here; the
text is split before the merges apply, so a wrong splitter would give wrong ids without an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from bessemer.core.errors import IntegrityError, InvalidInput

CONTROL, USER_DEFINED = 3, 4

# Split patterns as the models' own tokenizer.json files state them.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(facts: dict[str, Any], folder: Path, context_length: int) -> None:
    """Write the tokenizer that the header's `tokenizer.*` facts describe.

    Raises:
        InvalidInput: a kind of tokenizer or a pre-tokenizer that is not known here.
        IntegrityError: vocabulary, types and merges contradict each other.
    """
    kind = facts.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise InvalidInput(
            f"this GGUF file's tokenizer is {kind!r}; only byte-level BPE (gpt2) is known",
            next_step="pull the model's Hugging Face folder instead",
        )
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    types: list[int] = facts.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise IntegrityError(
            f"the vocabulary has {len(tokens)} tokens ({len(set(tokens))} different)"
            f" and {len(types)} types"
        )
    merges = [_pair(line) for line in facts.get("tokenizer.ggml.merges") or []]
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as fault:  # the binding raises bare Exception
        raise IntegrityError(f"the merges do not fit the vocabulary: {fault}") from fault
    tokenizer.pre_tokenizer = _pre_tokenizer(facts.get("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        token
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _tokenizer_config(facts, tokens, special, context_length)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _pre_tokenizer(name: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return byte_level
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level])
    patterns = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}
    if name not in patterns:
        raise InvalidInput(
            f"the pre-tokenizer {name!r} is not one of default, gpt-2, smollm, llama-bpe, qwen2",
            next_step="pull the model's Hugging Face folder instead",
        )
    split = pre_tokenizers.Split(Regex(patterns[name]), behavior="isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, whole])


def _tokenizer_config(
    facts: dict[str, Any], tokens: list[str], special: list[str], context_length: int
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": special,
        "add_bos_token": bool(facts.get("tokenizer.ggml.add_bos_token", False)),
    }
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for theirs, ours in roles.items():
        index = facts.get(f"tokenizer.ggml.{theirs}_token_id")
        if index is not None and 0 <= index < len(tokens):
            config[f"{ours}_token"] = tokens[index]
    if template := facts.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
