"""What bytes a vocabulary entry stands for.

Two families cover today's language models: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), which
writes each byte as one printable character, and SentencePiece's (Llama 2, Mistral, Gemma), which
writes a space as U+2581 and a stray byte as `<0x0A>`. Encoders of sentences have WordPiece (BERT),
which marks what goes on with a word by `##` and forgets how words were apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import tokenizers

from bessemer.core.errors import InvalidInput

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling(NamedTuple):
    """How a vocabulary spells bytes.

    `strips_first_space`: encoding puts a space before the text, decoding takes it away again.
    """

    to_bytes: Callable[[str], bytes]
    strips_first_space: bool


def spelling_of(backend: tokenizers.Tokenizer) -> Spelling:
    """Read the spelling from the tokenizer's own decoder.

    Raises:
        InvalidInput: the decoder is of none of these families.
    """
    state = backend.decoder.__getstate__() if backend.decoder is not None else b"{}"
    decoder: dict[str, Any] = json.loads(state)
    steps = decoder.get("decoders", [decoder])
    kinds = {str(step.get("type")) for step in steps}
    if "ByteLevel" in kinds:
        return Spelling(byte_level, strips_first_space=False)
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return Spelling(sentencepiece, any(map(_strips_first_space, steps)))
    if kinds == {"WordPiece"}:
        return Spelling(wordpiece, strips_first_space=True)
    raise InvalidInput(
        f"this tokenizer decodes by {', '.join(sorted(kinds))}; "
        "byte-level BPE, SentencePiece and WordPiece are supported",
        next_step="use a model whose tokenizer.json has a ByteLevel or ByteFallback decoder",
    )


def byte_level(token: str) -> bytes:
    """`"Ġhello"` is `b" hello"`; what is not in the byte alphabet stands for itself.

    >>> byte_level("Ġ<|im_end|>"), byte_level("｜")
    (b' <|im_end|>', b'\\xef\\xbd\\x9c')
    """
    try:
        return bytes([_BYTE_OF[char] for char in token])
    except KeyError:
        return token.encode()


def sentencepiece(token: str) -> bytes:
    """`"▁hello"` is `b" hello"`, `"<0x0A>"` is a line feed."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


def wordpiece(token: str) -> bytes:
    """`"hello"` is `b" hello"`, `"##ing"` is `b"ing"`."""
    return token[2:].encode() if token.startswith("##") else f" {token}".encode()


def _strips_first_space(step: dict[str, Any]) -> bool:
    if step.get("type") == "Metaspace":
        return step.get("prepend_scheme") != "never"
    return step.get("type") == "Strip" and step.get("content") == " " and step.get("start") == 1


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(hidden)
    }


_BYTE_OF = _byte_alphabet()
