"""One request on its way through the engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bessemer.core.protocols import FinishReason, GenerateRequest, Pooling, TokenLogprob
from bessemer.inference.cache import Reuse, Row
from bessemer.inference.constraint import Matcher

Wanted = Literal["tokens", "scores", "vector"]
Send = Callable[[str, Any], None]
"""Takes ("chunk" | "result" | "error", body); called in the engine's thread."""


@dataclass(eq=False)
class EngineSequence:
    """`ids` grows as tokens are drawn; `row` is its place in the cache while it runs.

    `matcher` says which token may be next, where the request has a constraint. `adapter` is the
    digest of the one it is computed with. `proposed` are tokens that may come next, to be checked
    by the step that computes the last one of `ids`. `prompt_logprobs` are those of `ids[1:]` that
    are known and not told yet.
    """

    ids: list[int]
    wanted: Wanted
    send: Send
    request: GenerateRequest | None = None
    row: Row | None = None
    adapter: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drawn: int = 0
    proposed: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    cancelled: bool = False
    matcher: Matcher | None = None
    finish_reason: FinishReason | None = None
    pooling: Pooling | None = None
    vector_sum: Any = None
    client: str = ""
    deadline_s: float | None = None
    arrived_at: float = field(default_factory=time.monotonic)
    admitted_at: float | None = None

    @classmethod
    def for_tokens(cls, request: GenerateRequest, send: Send) -> EngineSequence:
        seed = request.sampling.seed
        return cls(
            ids=list(request.prompt_ids),
            wanted="tokens",
            send=send,
            request=request,
            adapter=request.adapter,
            prompt_tokens=len(request.prompt_ids),
            seed=secrets.randbits(63) if seed is None else seed,
            stop_ids=frozenset(request.stop_ids),
            client=request.client,
            deadline_s=request.deadline_s,
        )

    @classmethod
    def for_whole(
        cls,
        ids: Sequence[int],
        wanted: Wanted,
        send: Send,
        pooling: Pooling | None = None,
        client: str = "",
        adapter: str | None = None,
    ) -> EngineSequence:
        """A sequence that is only read: to be scored, or made a vector."""
        return cls(
            ids=list(ids),
            wanted=wanted,
            send=send,
            prompt_tokens=len(ids),
            pooling=pooling,
            client=client,
            adapter=adapter,
        )

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed; `now` is of the monotonic clock."""
        return self.deadline_s is not None and now - self.arrived_at > self.deadline_s

    @property
    def todo(self) -> int:
        """Tokens not yet computed: many in prefill, one in decode."""
        return len(self.ids) - (self.row.computed if self.row else 0)

    @property
    def reads_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are wanted and not told yet."""
        asked = self.request is not None and self.request.prompt_logprobs is not None
        return asked and self.drawn == 0

    @property
    def reuse(self) -> Reuse:
        """A vector needs every hidden state, as a prompt's log-probabilities do, and the cache
        keeps none."""
        if self.reads_prompt:
            return "nothing"
        known: dict[Wanted, Reuse] = {"tokens": "prefix", "scores": "scored prefix"}
        return known.get(self.wanted, "nothing")

    @property
    def salt(self) -> bytes:
        """What its keys and values depend on beside its tokens."""
        return (self.adapter or "").encode()

    @property
    def decoding(self) -> bool:
        return self.row is not None and self.drawn > 0 and self.todo == 1
