"""A streaming chat request over HTTP, with the moment of every token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serving.server import Server


@dataclass
class Answer:
    """What came of one request. Moments are of `time.perf_counter`, in seconds.

    Attributes:
        arrivals_s: when each event with text came; `counts` how many tokens were known by then.
        retried: how often the server said 429 and was asked again after `Retry-After`.
        fault: why there is no whole answer, or None.
    """

    sent_s: float
    arrivals_s: list[float] = field(default_factory=list)
    retried: int = 0
    fault: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def first_s(self) -> float:
        """Time to the first token, all retries included."""
        return self.arrivals_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between one event and the next."""
        return [b - a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]

    @property
    def cached_tokens(self) -> int:
        return int(self.usage["prompt_tokens_details"]["cached_tokens"])


class Client:
    """Asks for exactly `max_tokens` tokens: the token that would end an answer is never drawn."""

    def __init__(self, server: Server, eos_ids: Sequence[int]) -> None:
        self._server = server
        self._never_ends = {str(id_): -100 for id_ in eos_ids}
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": f"Bearer {server.key}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, messages: Sequence[dict[str, str]], max_tokens: int) -> Answer:
        answer = Answer(time.perf_counter())
        body = {
            "model": self._server.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "logit_bias": self._never_ends,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            while (wait_s := await self._try(body, answer)) is not None:
                answer.retried += 1
                await asyncio.sleep(wait_s)
        except (aiohttp.ClientError, TimeoutError) as fault:
            answer.fault = repr(fault)
        told = answer.usage.get("completion_tokens")
        if answer.fault is None and told != max_tokens:
            answer.fault = f"{told} tokens in place of {max_tokens}"
        return answer

    async def _try(self, body: dict[str, Any], answer: Answer) -> float | None:
        """One attempt; seconds to wait before the next, or None."""
        url = f"{self._server.url}/chat/completions"
        async with self._session.post(url, json=body) as reply:
            if reply.status == 429:
                return float(reply.headers["Retry-After"])
            if reply.status != 200:
                answer.fault = f"status {reply.status}: {(await reply.text())[:200]}"
                return None
            async for line in reply.content:
                self._take(line, answer)
        return None

    def _take(self, line: bytes, answer: Answer) -> None:
        if line.startswith(b'data: {"error"'):
            answer.fault = line.decode()[:200]
        elif b'"usage":{' in line:
            answer.usage = json.loads(line.removeprefix(b"data: "))["usage"]
        elif b'"content":"' in line:
            answer.arrivals_s.append(time.perf_counter())
