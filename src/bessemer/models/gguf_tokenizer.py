"""The tokenizer inside a GGUF file, written as `tokenizer.json` and `tokenizer_config.json`.

Byte-level BPE only (`tokenizer.ggml.model` = gpt2), with the pre-tokenizers listed here; the
text is split before the merges apply, so a wrong splitter would give wrong ids without an error.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from bessemer.core.errors import IntegrityError, InvalidInput
from bessemer.models.gguf_file import Facts

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
# A whole piece of text that is a token is that token, whatever the merges; BOS by default.
LLAMA3 = ("llama-bpe", "llama3")
# llama.cpp's names of the pre-tokenizers known here, each once.
SPLITTERS = ("gpt-2", "smollm", "llama-bpe", "qwen2")

# Split patterns as the models' own tokenizer.json files state them.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_files(facts: Facts, context_length: int) -> dict[str, str]:
    """The texts of `tokenizer.json` and `tokenizer_config.json`, by file name.

    Raises:
        InvalidInput: a kind of tokenizer or a pre-tokenizer that is not known here.
        IntegrityError: vocabulary, types and merges contradict each other.
    """
    kind = facts.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise InvalidInput(
            f"this GGUF file's tokenizer is {kind!r}; only byte-level BPE (gpt2) is known",
            next_step="pull the model's Hugging Face folder instead",
        )
    tokens = facts.texts("tokenizer.ggml.tokens")
    types = facts.integers("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise IntegrityError(
            f"the vocabulary has {len(tokens)} tokens ({len(set(tokens))} different)"
            f" and {len(types)} types"
        )
    splitter = facts.text("tokenizer.ggml.pre", "default")
    tokenizer = _bpe(facts, tokens, ignore_merges=splitter in LLAMA3)
    tokenizer.pre_tokenizer = pre_tokenizer(splitter)
    if splitter == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, type_ in zip(tokens, types, strict=True) if type_ == CONTROL]
    defined = [token for token, type_ in zip(tokens, types, strict=True) if type_ == USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in defined])
    config = _tokenizer_config(facts, tokens, control, context_length)
    tokenizer.post_processor = _around(facts, config, tokens)
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
    }


def _around(facts: Facts, config: dict[str, Any], tokens: list[str]) -> Any:
    """What puts BOS before and EOS after a text, where the file asks for that."""
    bos = config.get("bos_token") if config["add_bos_token"] else None
    eos = config.get("eos_token") if facts.flag("tokenizer.ggml.add_eos_token", False) else None
    named = list(dict.fromkeys(token for token in (bos, eos) if token))
    if not named:
        return None
    one = " ".join(part for part in (bos, "$A", eos) if part)
    return processors.TemplateProcessing(
        single=one,
        pair=f"{one} {one.replace('$A', '$B')}",
        special_tokens=[(token, tokens.index(token)) for token in named],
    )


def _bpe(facts: Facts, tokens: list[str], *, ignore_merges: bool) -> Tokenizer:
    merges = [_pair(line) for line in facts.texts("tokenizer.ggml.merges")]
    vocab = {token: index for index, token in enumerate(tokens)}
    try:
        return Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    except Exception as fault:  # the binding raises bare Exception
        raise IntegrityError(f"the merges do not fit the vocabulary: {fault}") from fault


def _pair(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def pre_tokenizer(name: str | None) -> Any:
    """What llama.cpp calls `name`, as an object of `tokenizers`."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return byte_level
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, byte_level])
    patterns = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2}
    if name not in patterns:
        raise InvalidInput(
            f"the pre-tokenizer {name!r} is not one of default, {', '.join(SPLITTERS)}",
            next_step="pull the model's Hugging Face folder instead",
        )
    split = pre_tokenizers.Split(Regex(patterns[name]), behavior="isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, whole])


def _tokenizer_config(
    facts: Facts, tokens: list[str], control: list[str], context_length: int
) -> dict[str, Any]:
    adds_bos = facts.text("tokenizer.ggml.pre") in LLAMA3
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": control,
        "add_bos_token": facts.flag("tokenizer.ggml.add_bos_token", adds_bos),
    }
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for theirs, ours in roles.items():
        index = facts.integer(f"tokenizer.ggml.{theirs}_token_id")
        if index is not None:
            config[f"{ours}_token"] = _token(tokens, index, theirs)
    if template := facts.text("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _token(tokens: list[str], index: int, role: str) -> str:
    if not 0 <= index < len(tokens):
        raise IntegrityError(f"the {role} token is {index} of {len(tokens)} tokens")
    return tokens[index]
