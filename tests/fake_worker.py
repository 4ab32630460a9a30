"""An engine worker without a model: a real process with a real socket, for tests.

    python tests/fake_worker.py --model F --digest D --socket P --threads N [faults]

It speaks `core.frames` as the native worker does, so whatever works over it works over the real
one. The answer to a prompt is the prompt, repeated, one token a step; the log-probability of
token `i` is `-i / 100`. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from bessemer.core.engine_client import describe_error
from bessemer.core.errors import BessemerError, Busy, ContextLengthExceeded
from bessemer.core.frames import encode_frame, read_frame

CONTEXT_LENGTH = 256
DIE_ID = 666  # a prompt with this token kills the worker


class FakeWorker:
    """Serves connections; `options` are the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.running: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (frame := await read_frame(reader)) is not None:
            self._note(frame)
            number = frame["id"]
            if frame["op"] == "cancel":
                if task := self.running.pop(number, None):
                    task.cancel()
                continue
            self.running[number] = asyncio.create_task(self._answer(frame, writer))
        writer.close()

    async def _answer(self, frame: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        number = frame["id"]
        try:
            if frame["op"] == "generate":
                await self._generate(number, frame["request"], writer)
            else:
                _say(writer, number, "result", self._result(frame))
        except BessemerError as fault:
            _say(writer, number, "error", describe_error(fault))
        finally:
            self.running.pop(number, None)

    async def _generate(
        self, number: int, request: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        prompt, most = request["prompt_ids"], request["max_tokens"]
        self._refuse(prompt, most)
        ids = [prompt[i % len(prompt)] for i in range(most)]
        stop = set(request["stop_ids"])
        made = 0
        for token in ids:
            await asyncio.sleep(self.options.step_s)
            if token in stop:
                break
            made += 1
            chunk: dict[str, Any] = {"ids": [token], "logprobs": None}
            if request["top_logprobs"] is not None:
                chunk["logprobs"] = [{"id": token, "logprob": -token / 100}]
            _say(writer, number, "chunk", chunk)
        last = {
            "ids": [],
            "finish_reason": "length" if made == most else "stop",
            "prompt_tokens": len(prompt),
            "completion_tokens": made,
        }
        _say(writer, number, "chunk", last)

    def _refuse(self, prompt: list[int], most: int) -> None:
        if DIE_ID in prompt:
            os._exit(9)
        if len(prompt) + most > CONTEXT_LENGTH:
            raise ContextLengthExceeded(
                f"{len(prompt)} tokens of prompt and {most} of answer; {CONTEXT_LENGTH} fit",
                prompt_tokens=len(prompt),
                context_length=CONTEXT_LENGTH,
            )
        if len(self.running) > self.options.most_running:
            raise Busy("the queue is full", retry_after_s=1.5)

    def _result(self, frame: dict[str, Any]) -> Any:
        if frame["op"] == "score":
            return [-token / 100 for token in frame["ids"][1:]]
        if frame["op"] == "embed":
            return [1.0, 0.0]
        return {
            "model_digest": self.options.digest,
            "context_length": CONTEXT_LENGTH,
            "precision": "fake",
            "running": len(self.running) - 1,
            "max_running": self.options.most_running,
            "memory_bytes": self.options.memory_bytes,
        }

    def _note(self, frame: dict[str, Any]) -> None:
        if self.options.log:
            with Path(self.options.log).open("a") as file:
                file.write(json.dumps({"op": frame["op"], "id": frame["id"]}) + "\n")


def _say(writer: asyncio.StreamWriter, number: int, kind: str, body: Any) -> None:
    writer.write(encode_frame([[number, kind, body]]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("--model", "--digest", "--socket"):
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--guesses", default="ngram", help="taken, and left alone")
    parser.add_argument("--step-s", type=float, default=0.0, help="time each token takes")
    parser.add_argument("--most-running", type=int, default=8)
    parser.add_argument("--memory-bytes", type=int, default=0, help="what it says it has")
    parser.add_argument("--log", help="append each operation to this file, one JSON a line")
    parser.add_argument("--starts", help="append the pid to this file at each start")
    parser.add_argument("--fail-loading", type=int, default=0, help="die at the first N starts")
    parser.add_argument("--wait-for", help="load until this file exists")
    return parser.parse_args()


def _start(options: argparse.Namespace) -> None:
    """Note the start, and die if this one is to fail."""
    if not options.starts:
        return
    starts = Path(options.starts)
    with starts.open("a") as file:
        file.write(f"{os.getpid()}\n")
    if len(starts.read_text().split()) <= options.fail_loading:
        sys.exit("cannot load: the weights are a fake")


async def _until_stdin_ends() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def _main(options: argparse.Namespace) -> None:
    ending = asyncio.create_task(_until_stdin_ends())
    while options.wait_for and not Path(options.wait_for).exists():
        if ending.done():
            return
        await asyncio.sleep(0.01)
    server = await asyncio.start_unix_server(FakeWorker(options).serve, options.socket)
    print("ready", flush=True)
    await ending
    server.close()


if __name__ == "__main__":
    chosen = _parse()
    _start(chosen)
    asyncio.run(_main(chosen))
