"""A serving and a responder for the console's tests, which a test steers from its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

from bessemer.app.chat import ModelHealth, ModelState, ServedModel, no_such_model
from bessemer.core.principal import Principal
from bessemer.core.protocols import ChatRequest, Delta, Usage

WAIT_S = 10.0


class SteeredResponder:
    """Says what the test says, when the test says it. Safe to steer from any thread."""

    model_digest: str | None = "sha256:" + "5" * 64

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.tokens = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._words: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self._asked = threading.Semaphore(0)
        self._closed = threading.Semaphore(0)
        self._script: list[Delta | Exception] | None = None

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self._loop = asyncio.get_running_loop()
        self._words = asyncio.Queue()
        for word in self._script or ():
            self._words.put_nowait(word)
        self.tokens = 0
        self.requests.append(request)
        self._asked.release()
        try:
            while True:
                word = await self._words.get()
                if isinstance(word, Exception):
                    raise word
                yield word
                if word.finish_reason:
                    return
        finally:
            self._closed.release()

    def always(self, *words: str) -> None:
        """Answer every question from now on with these words, at once."""
        self._script = [Delta(text=word) for word in words]
        self._script.append(self._end(len(words)))

    def always_fail(self, fault: Exception) -> None:
        self._script = [fault]

    def wait_asked(self) -> ChatRequest:
        """The next question."""
        assert self._asked.acquire(timeout=WAIT_S), "nobody asked"
        return self.requests[-1]

    def wait_closed(self) -> None:
        """Until an answer ended, or was cancelled."""
        assert self._closed.acquire(timeout=WAIT_S), "the answer was never closed"

    def say(self, *words: str) -> None:
        for word in words:
            self.tokens += 1
            self._put(Delta(text=word))

    def finish(self) -> None:
        self._put(self._end(self.tokens))

    def fail(self, fault: Exception) -> None:
        self._put(fault)

    def _put(self, word: Delta | Exception) -> None:
        assert self._loop is not None, "nobody asked yet"
        self._loop.call_soon_threadsafe(self._words.put_nowait, word)

    @staticmethod
    def _end(tokens: int) -> Delta:
        usage = Usage(prompt_tokens=9, completion_tokens=tokens)
        return Delta(finish_reason="stop", usage=usage)


class FakeServing:
    """Implements `app.chat.Serving` over named responders whose states the test sets."""

    def __init__(self, *names: str) -> None:
        self.states: dict[str, ModelState] = dict.fromkeys(names, "ready")
        self.responders = {name: SteeredResponder() for name in names}

    async def responder(self, principal: Principal, model: str) -> SteeredResponder:
        principal.require("chat")
        if model not in self.responders:
            raise no_such_model(model)
        return self.responders[model]

    def models(self, principal: Principal) -> list[ServedModel]:
        return [
            ServedModel(name, 1_700_000_000, principal.org_id, state)
            for name, state in self.states.items()
        ]

    def health(self) -> list[ModelHealth]:
        return [ModelHealth(name, state) for name, state in self.states.items()]

    def forget_names(self) -> None:
        """It knows no name for longer than a request."""
