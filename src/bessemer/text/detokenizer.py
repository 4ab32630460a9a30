"""Token ids to text as they come, one whole character at a time.

Each token costs its own bytes and nothing more: no id is decoded twice. What all pushes and the
flush return, joined, is exactly `Tokenizer.decode` of all the ids.
"""

from __future__ import annotations

import codecs

from bessemer.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one answer while it is being written.

    >>> [detokenizer.push(id_) for id_ in (172, 253, 242, 225)]               # doctest: +SKIP
    ['', '', '', '🙂']
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special: bool = True,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`shown` are control tokens that are text all the same."""
        self._tokenizer = tokenizer
        self._skip_special, self._shown = skip_special, shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._may_strip = tokenizer.strips_first_space

    def push(self, token_id: int) -> str:
        """The characters this token completes; "" while one is still incomplete."""
        hidden = self._skip_special and token_id not in self._shown
        if hidden and self._tokenizer.is_special(token_id):
            return ""
        return self._strip_first(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._strip_first(self._utf8.decode(b"", final=True))

    def _strip_first(self, text: str) -> str:
        if not (self._may_strip and text):
            return text
        self._may_strip = False
        return text.removeprefix(" ")
