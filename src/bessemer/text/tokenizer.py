"""A model's tokenizer, read from its Hugging Face folder: text to ids, ids to text.

The ids are those of `transformers.AutoTokenizer(...)(text, add_special_tokens=False)`: nothing is
put before or after the text. What a chat needs around its messages is the template's business.

    >>> tokenizer = Tokenizer.load(folder)                                    # doctest: +SKIP
    >>> tokenizer.decode(tokenizer.encode("naïve 東京"))                       # doctest: +SKIP
    'naïve 東京'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from bessemer.core.errors import InvalidInput
from bessemer.text.special_tokens import SpecialTokens, read_special_tokens
from bessemer.text.token_bytes import spelling_of


class Tokenizer:
    """Encodes and decodes with the `tokenizer.json` of `folder`. Make one with `load`."""

    def __init__(self, folder: Path, backend: tokenizers.Tokenizer, named: SpecialTokens) -> None:
        self.folder = folder
        self._backend = backend
        self._named = named
        self._spelling = spelling_of(backend)
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(id_ for id_, token in added.items() if token.special)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises InvalidInput when the folder has no tokenizer, or one that cannot be read."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InvalidInput(
                f"{folder} has no tokenizer.json",
                next_step="name a Hugging Face model folder that has one",
            )
        backend = _parse(path.read_bytes(), path)
        return cls(folder, backend, read_special_tokens(folder, backend.token_to_id))

    def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Token ids of `text`, and of nothing else (no BOS, no truncation).

        Args:
            text: any text.
            parse_special: whether `<|im_end|>` in `text` is the control token, or ten characters
                that someone wrote.

        Raises:
            InvalidInput: `text` has half a surrogate pair, which no UTF-8 can hold.
        """
        _check_unicode(text)
        backend = self._backend if parse_special else self._literal
        return list(backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = True) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        for text in texts:
            _check_unicode(text)
        backend = self._backend if parse_special else self._literal
        found = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in found]

    def encode_document(self, text: str) -> list[int]:
        """`text` as the model wants a whole one: between `[CLS]` and `[SEP]`, or behind its BOS.

        Control tokens that somebody wrote into it are characters.

        Raises:
            InvalidInput: as `encode`.
        """
        ids = self.encode(text, parse_special=False)
        return [*self.prefix_ids, *ids, *self._suffix_ids]

    def encode_continuation(self, text: str, *, parse_special: bool = True) -> list[int]:
        """`encode`, for text that follows other text.

        SentencePiece tokenizers put a space before what they take for the start of a text; here
        they must not. For byte-level BPE the two are the same.
        """
        if self._prefixes_space:
            newline = self.encode("\n")
            after_newline = self.encode("\n" + text, parse_special=parse_special)
            if after_newline[: len(newline)] == newline:
                return after_newline[len(newline) :]
        return self.encode(text, parse_special=parse_special)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of `ids`. Bytes that are no UTF-8 become U+FFFD; unknown ids are nothing."""
        data = b"".join(map(self.token_bytes, self.visible(ids) if skip_special else ids))
        text = data.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.strips_first_space else text

    def visible(self, ids: Iterable[int]) -> list[int]:
        """`ids` without the control tokens."""
        return [id_ for id_ in ids if id_ not in self._special_ids]

    def token_bytes(self, id_: int) -> bytes:
        """The bytes a token stands for, perhaps only a part of a character.

        Control tokens stand for their name; an id that has no token for nothing.
        """
        token = self._backend.id_to_token(id_)
        return b"" if token is None else self._spelling.to_bytes(token)

    def token_text(self, id_: int) -> str:
        """A token alone as text, for logprobs and displays; U+FFFD where it is not whole."""
        return self.token_bytes(id_).decode("utf-8", errors="replace")

    def is_special(self, id_: int) -> bool:
        """Whether this is a control token, which text a person reads does not show."""
        return id_ in self._special_ids

    def control_id(self, text: str) -> int | None:
        """The id of the token that is exactly `text`, if there is one and it is a control token."""
        id_ = self._backend.token_to_id(text)
        return id_ if id_ in self._special_ids else None

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's embedding may have more rows."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokens that end an answer, by generation_config.json and tokenizer_config.json."""
        return self._named.eos_ids

    @property
    def bos_id(self) -> int | None:
        """The token named `bos_token`. A name is no order to put it anywhere; see `prefix_ids`."""
        return self._named.bos_id

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The control tokens as text, longest first."""
        added = self._backend.get_added_tokens_decoder().values()
        texts = {token.content for token in added if token.special}
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))

    @cached_property
    def prefix_ids(self) -> list[int]:
        """What the model wants before plain text: `[bos_id]` or nothing. `encode` omits it."""
        if self._named.adds_bos is not None:
            bos = self._named.bos_id if self._named.adds_bos else None
            return [] if bos is None else [bos]
        return self._around[0]

    @property
    def _suffix_ids(self) -> list[int]:
        return self._around[1]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What tokenizer.json itself puts before and after a text."""
        bare = self._backend.encode("a", add_special_tokens=False).ids
        dressed = list(self._backend.encode("a").ids)
        if not bare or bare[0] not in dressed:
            return [], []
        start = dressed.index(bare[0])
        return dressed[:start], dressed[start + len(bare) :]

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first space belongs to the tokenizer and not to the text."""
        return self._spelling.strips_first_space

    @cached_property
    def _prefixes_space(self) -> bool:
        newline = self.encode("\n")
        return self.encode("\na")[len(newline) :] != self.encode("a")

    @cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        # A second one, because the switch belongs to the tokenizer and others may be encoding.
        literal = tokenizers.Tokenizer.from_str(self._backend.to_str())
        literal.encode_special_tokens = True
        return literal


def _parse(data: bytes, path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_buffer(data)
    except Exception as fault:  # tokenizers raises bare Exception
        raise InvalidInput(
            f"{path} is not a tokenizer: {fault}",
            next_step="fetch the file again; it may be cut short",
        ) from fault
    # Files may carry the truncation of somebody's training run; a prompt is never cut in silence.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise InvalidInput(
            f"the text has half a surrogate pair (U+{ord(text[fault.start]):04X}) at character "
            f"{fault.start}",
            next_step="send valid Unicode; an emoji was probably cut in two",
        ) from None
