"""The official client, sync or async, with a record of every answer, held to the specification."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import openai

from tests.gateway import specification
from tests.specification import Operation, check, operation_of

Kind = Literal["sync", "async"]

# The schema of the events of what streams.
EVENTS = {
    Operation("POST", "/chat/completions"): "CreateChatCompletionStreamResponse",
    Operation("POST", "/completions"): "CreateCompletionResponse",
    Operation("POST", "/responses"): "ResponseStreamEvent",
    Operation("GET", "/responses/{response_id}"): "ResponseStreamEvent",
}


@dataclass
class Record:
    """One answer. `body` is whole once the client has read it."""

    method: str
    path: str
    status: int
    content_type: str
    body: bytearray = field(default_factory=bytearray)

    @property
    def operation(self) -> Operation | None:
        """None: an extension of ours."""
        path = self.path
        if path.startswith("/v1/evals/"):
            # The client cancels a run at a path of its own; the specification has it one part up.
            path = path.removesuffix("/cancel")
        return operation_of(self.method, path)

    @property
    def streamed(self) -> bool:
        return self.content_type == "text/event-stream"

    def faults(self) -> Iterator[str]:
        """What the specification says against it."""
        operation = self.operation
        if operation is None:
            return
        try:
            if self.streamed:
                self._check_events(operation)
            elif self.content_type == "application/json":
                body = json.loads(self.body)
                check(self.method, "/v1" + operation.path, self.status, body)
            elif not operation.path.endswith("/content"):
                yield f"{self.method} {self.path} answers {self.content_type!r}"
        except AssertionError as fault:
            yield str(fault)[:1000]

    def _check_events(self, operation: Operation) -> None:
        events = [
            line.removeprefix(b"data: ")
            for line in bytes(self.body).split(b"\n")
            if line.startswith(b"data: ")
        ]
        assert events, f"{self.method} {self.path} streams nothing"
        for event in events:
            if event != b"[DONE]":
                specification.check(EVENTS[operation], json.loads(event))


class Recorder:
    """Makes clients of one kind against one server, and keeps what they are answered."""

    def __init__(self, kind: Kind, url: str) -> None:
        self.kind, self.records = kind, list[Record]()
        self._url = url
        self._open: list[openai.OpenAI | openai.AsyncOpenAI] = []

    def client(self, key: str, admin_key: str | None = None) -> Any:
        settings: Any = {
            "base_url": self._url,
            "api_key": key,
            "admin_api_key": admin_key or key,
            "max_retries": 0,
        }
        if self.kind == "sync":
            client = openai.OpenAI(
                **settings,
                http_client=openai.DefaultHttpxClient(
                    verify=False, event_hooks={"response": [self._note]}
                ),
            )
            self._open.append(client)
            return Awaited(client)
        other = openai.AsyncOpenAI(
            **settings,
            http_client=openai.DefaultAsyncHttpxClient(
                verify=False, event_hooks={"response": [self._note_async]}
            ),
        )
        self._open.append(other)
        return other

    async def close(self) -> None:
        for client in self._open:
            if isinstance(client, openai.AsyncOpenAI):
                await client.close()
            else:
                client.close()

    def _note(self, response: httpx2.Response) -> None:
        record = self._begun(response)
        if record.streamed:
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = _Tee(response.stream, record)
        else:
            record.body += response.read()

    async def _note_async(self, response: httpx2.Response) -> None:
        record = self._begun(response)
        if record.streamed:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _AsyncTee(response.stream, record)
        else:
            record.body += await response.aread()

    def _begun(self, response: httpx2.Response) -> Record:
        kind = response.headers.get("content-type", "").partition(";")[0]
        request = response.request
        record = Record(request.method, request.url.path, response.status_code, kind)
        self.records.append(record)
        return record


class Awaited:
    """The synchronous client's tree, whose calls are awaited as the asynchronous one's are: each
    is made in a thread.
    """

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return Awaited(found)
        return lambda *arguments, **named: asyncio.to_thread(found, *arguments, **named)


class _Tee(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, record: Record) -> None:
        self._stream, self._record = stream, record

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._record.body += chunk
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncTee(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, record: Record) -> None:
        self._stream, self._record = stream, record

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._record.body += chunk
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
