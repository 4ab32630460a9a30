"""Token ids in, text that may be sent out: what one answer says so far.

Characters may span tokens and stop strings may span both, so text is held back until it is whole
and cannot be the start of a stop string any more; a token's log-probability waits for its text.
Not here: asking the engine (`responder`) and the shapes of any API (`gateway`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from bessemer.core.protocols import (
    Delta,
    PromptToken,
    TextLogprob,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from bessemer.text.detokenizer import Detokenizer
from bessemer.text.stop_strings import StopStrings
from bessemer.text.tokenizer import Tokenizer


@dataclass
class _Placed:
    """A log-probability and where its text stands; `end` is None while a character is open."""

    logprob: TextLogprob
    start: int
    end: int | None


class Counted(NamedTuple):
    """Tokens up to a chunk; `cached` are among the prompt's."""

    prompt: int
    cached: int
    completion: int


class Transcript:
    """One answer in the making. Give it every chunk in order; it says what may be sent.

    Args:
        prompt_tokens: the prompt's length, for an answer that ends before the engine counts it.
        shown: control tokens that are text here.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        prompt_tokens: int,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, shown=shown)
        self._stops = StopStrings(stops) if stops else None
        self._stopped = False
        self._decoded = 0  # characters out of the detokenizer
        self._sent = 0  # of these, characters given away
        self._placed: deque[_Placed] = deque()
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = 0
        self._tokens = 0
        self._logprobs: list[float] = []

    def take(self, chunk: TokenChunk) -> Delta:
        """The news of one chunk; with `finish_reason` and `usage` when the answer is over.

        A stop string ends it with "stop", whatever the engine says of the same chunk, and counts
        every token up to the one that completed it.
        """
        self._cached_tokens = max(self._cached_tokens, chunk.cached_tokens)
        text = "".join(self._texts(chunk))
        self._sent += len(text)
        finish_reason = self._finish_reason(chunk)
        return Delta(
            text=text,
            logprobs=None if chunk.logprobs is None else self._release(finish_reason is not None),
            finish_reason=finish_reason,
            usage=self.usage(chunk) if finish_reason else None,
            mean_logprob=self._mean_logprob(chunk) if finish_reason else None,
        )

    def _texts(self, chunk: TokenChunk) -> list[str]:
        texts: list[str] = []
        for number, token_id in enumerate(chunk.ids):
            if self._stopped:
                return texts
            self._tokens += 1
            piece = self._detokenizer.push(token_id)
            if chunk.logprobs is not None:
                self._place(chunk.logprobs[number])
                self._logprobs.append(chunk.logprobs[number].logprob)
            texts.append(self._admit(piece))
        if chunk.finish_reason and not self._stopped:
            texts.append(self._admit(self._detokenizer.flush()))
            if self._stops and not self._stopped:
                texts.append(self._stops.flush())
        return texts

    def _admit(self, piece: str) -> str:
        if not piece:
            return ""
        self._decoded += len(piece)
        for placed in reversed(self._placed):
            if placed.end is not None:
                break
            placed.end = self._decoded
        if self._stops is None:
            return piece
        text, self._stopped = self._stops.push(piece)
        return text

    def _place(self, found: TokenLogprob) -> None:
        self._placed.append(_Placed(self._as_text(found), self._decoded, None))

    def _release(self, finished: bool) -> list[TextLogprob] | None:
        ready = []
        while self._placed and self._may_go(self._placed[0], finished):
            ready.append(self._placed.popleft().logprob)
        return ready or None

    def _may_go(self, placed: _Placed, finished: bool) -> bool:
        if not finished:
            return placed.end is not None and placed.end <= self._sent
        # Of a stop string's tokens only the one that also holds text before it is part of the
        # answer.
        return placed.start < self._sent or not self._stopped

    def _as_text(self, found: TokenLogprob) -> TextLogprob:
        text, raw = self._tokenizer.token_text, self._tokenizer.token_bytes
        top = [(text(id_), logprob, list(raw(id_))) for id_, logprob in found.top]
        return TextLogprob(text(found.id), found.logprob, list(raw(found.id)), top)

    def _finish_reason(self, chunk: TokenChunk) -> Literal["stop", "length"] | None:
        if self._stopped:
            return "stop"
        assert chunk.finish_reason != "cancelled", "the responder refuses cancelled answers"
        return chunk.finish_reason

    def usage(self, chunk: TokenChunk) -> Usage:
        """The counts up to `chunk`, the last one that was taken."""
        found = self.counts(chunk)
        return Usage(
            prompt_tokens=found.prompt,
            completion_tokens=found.completion,
            cached_tokens=found.cached,
        )

    def counts(self, chunk: TokenChunk) -> Counted:
        """As `usage` tells them."""
        return Counted(
            chunk.prompt_tokens or self._prompt_tokens,
            self._cached_tokens,
            self._tokens if self._stopped else self._counted(chunk),
        )

    def _counted(self, chunk: TokenChunk) -> int:
        return chunk.completion_tokens if chunk.finish_reason else self._tokens

    def _mean_logprob(self, chunk: TokenChunk) -> float | None:
        found = list(self._logprobs)
        if chunk.stop_logprob is not None and not self._stopped:
            found.append(chunk.stop_logprob)
        return math.fsum(found) / len(found) if found else None


def read_prompt(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[TokenLogprob]
) -> list[PromptToken]:
    """A prompt's tokens as text, from the log-probabilities of all of them but the first."""

    def told(id_: int, found: TokenLogprob | None) -> PromptToken:
        shown = b"" if tokenizer.is_special(id_) else tokenizer.token_bytes(id_)
        token = PromptToken(id_, tokenizer.token_text(id_), list(shown))
        if found is None:
            return token
        top = [(other, tokenizer.token_text(other), logprob) for other, logprob in found.top]
        return msgspec.structs.replace(token, logprob=found.logprob, rank=found.rank, top=top)

    return [told(id_, found) for id_, found in zip(ids, (None, *logprobs), strict=True)]
