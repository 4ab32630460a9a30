"""The process around an engine: `python -m bessemer.inference.worker --model FOLDER ...`.

It loads the model, a GGUF file with OpenVINO and all others with the native engine, listens on a
Unix socket, prints `ready`, and serves frames (see `core.engine_client`) until its standard input
closes, so it never outlives who started it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bessemer.core import compiled_products
from bessemer.core.allocator import give_back_freed_memory
from bessemer.core.engine_client import describe_error
from bessemer.core.errors import BessemerError, EngineUnavailable, InvalidInput
from bessemer.core.frames import encode_frame, read_frame
from bessemer.core.protocols import GenerateRequest, Pooling
from bessemer.models.config import read_tree
from bessemer.models.scheme import GGUF_FILE, gguf_kind_of

GIVE_BACK_EVERY_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Run one engine. Exit status 1, with the reason as the last line, if it cannot load."""
    options = _options(arguments)
    try:
        is_gguf = gguf_kind_of(read_tree(options.model)) is not None
        engine = _open_openvino(options) if is_gguf else _open_native(options)
    except (BessemerError, OSError, MemoryError) as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr, flush=True)
        return 1
    asyncio.run(_serve(engine, options.socket))
    engine.close()
    return 1 if engine.failed else 0


def _open_native(options: argparse.Namespace) -> Any:
    compiled_products.keep_few()
    import torch

    # The number of threads is the supervisor's decision, not the library's.
    torch.set_num_threads(options.threads)
    from bessemer.inference.engine import EngineSettings, NativeEngine

    settings = EngineSettings(
        precision=options.precision,
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        context_length=options.context_length,
        kv_bytes=options.kv_bytes,
        adapter_bytes=options.adapter_bytes,
        guesses=options.guesses,
        deterministic=options.deterministic,
        device=options.device,
    )
    return NativeEngine.open(options.model, options.digest, settings)


def _open_openvino(options: argparse.Namespace) -> Any:
    """The engine of a GGUF folder. `ngram` guesses change no answer, so they are not missed."""
    asked = {
        "--deterministic": options.deterministic,
        "--guesses MODEL": isinstance(options.guesses, Path),
        "--device cuda": options.device == "cuda",
    }
    if names := [name for name, is_asked in asked.items() if is_asked]:
        raise InvalidInput(
            "this model is a GGUF file, and OpenVINO, which computes it, has no"
            f" {' and no '.join(names)}",
            next_step="leave it out, or serve the model that this one was made from",
        )
    from bessemer.inference.openvino_engine import OpenVinoEngine
    from bessemer.inference.openvino_pipeline import OpenVinoSettings

    settings = OpenVinoSettings(
        threads=options.threads,
        precision=options.precision,
        context_length=options.context_length,
        max_running=options.max_running,
        max_waiting=options.max_waiting,
        kv_bytes=options.kv_bytes,
    )
    return OpenVinoEngine.open(options.model / GGUF_FILE, options.digest, settings)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bessemer.inference.worker", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--digest", required=True, help="the model's digest, reported by info")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--threads", type=int, required=True, help="compute threads")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32", "fp64"])
    parser.add_argument("--max-running", type=int, default=32, help="sequences computed together")
    parser.add_argument("--max-waiting", type=int, default=256, help="sequences that may queue")
    parser.add_argument("--context-length", type=int, help="serve less than the model's context")
    parser.add_argument(
        "--guesses",
        default="ngram",
        type=lambda said: said if said in ("off", "ngram") else Path(said),
        help="off, ngram, or the folder of a draft model",
    )
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--kv-bytes", type=int, default=1 << 30, help="memory for the KV cache")
    parser.add_argument("--adapter-bytes", type=int, default=1 << 30, help="memory for adapters")
    parser.add_argument(
        "--deterministic", action="store_true", help="equal requests get equal bits, in any company"
    )
    return parser.parse_args(arguments)


async def _give_back_memory() -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_EVERY_S)
        await asyncio.to_thread(give_back_freed_memory)


async def _serve(engine: Any, socket: Path) -> None:
    end = asyncio.Event()
    _watch_stdin(end)
    socket.unlink(missing_ok=True)
    connections: set[_Connection] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(engine, writer)
        connections.add(connection)
        try:
            await connection.serve(reader)
        finally:
            connections.discard(connection)

    loop = asyncio.get_running_loop()

    def flush_all() -> None:
        for connection in connections:
            connection.flush()
        if engine.failed:
            end.set()  # whoever started this process starts another

    def after_step() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(flush_all)

    engine.on_step(after_step)
    giving_back = loop.create_task(_give_back_memory())
    server = await asyncio.start_unix_server(connected, str(socket))
    print("ready", flush=True)
    async with server:
        await end.wait()
    giving_back.cancel()
    socket.unlink(missing_ok=True)


def _watch_stdin(end: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        # Not through `sys.stdin`, whose lock would be held when the interpreter ends.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end.set)

    threading.Thread(target=wait, daemon=True).start()


class _Connection:
    """One client: its sequences, and the news to send it after this step."""

    def __init__(self, engine: Any, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._sequences: dict[int, Any] = {}
        self._news: list[tuple[int, str, Any]] = []
        self._lock = threading.Lock()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Until the client hangs up; then everything it asked for is cancelled."""
        try:
            while (frame := await read_frame(reader)) is not None:
                self._take(frame)
        finally:
            for sequence in self._sequences.values():
                self._engine.cancel(sequence)
            self._writer.close()

    def flush(self) -> None:
        """Send all news as one frame. Runs in the event loop."""
        with self._lock:
            news, self._news = self._news, []
        for number, kind, body in news:
            if kind != "chunk" or body["finish_reason"] is not None:
                self._sequences.pop(number, None)
        if news and not self._writer.is_closing():
            self._writer.write(encode_frame(news))

    def _take(self, frame: dict[str, Any]) -> None:
        number, op = frame["id"], frame["op"]
        if op == "cancel":
            if (sequence := self._sequences.pop(number, None)) is not None:
                self._engine.cancel(sequence)
            return
        if op == "threads":
            self._engine.set_threads(int(frame["threads"]))
            return
        if op == "info":
            self._send(number, "result", msgspec.to_builtins(self._engine.info_now()))
            self.flush()
            return
        try:
            if op in ("load_adapter", "unload_adapter"):
                self._change_adapters(op, frame, partial(self._send, number))
                return
            sequence = self._sequence(op, frame, partial(self._send, number))
        except (msgspec.ValidationError, KeyError, TypeError) as fault:
            self._send(number, "error", InvalidInput(f"the engine cannot read this: {fault}"))
            self.flush()
            return
        self._sequences[number] = sequence
        self._engine.submit(sequence)

    def _change_adapters(self, op: str, frame: dict[str, Any], send: Any) -> None:
        from bessemer.inference.engine import AdapterChange

        folder = Path(frame["folder"]) if op == "load_adapter" else None
        self._engine.change_adapters(AdapterChange(frame["digest"], folder), send)

    def _sequence(self, op: str, frame: dict[str, Any], send: Any) -> Any:
        from bessemer.inference.sequence import EngineSequence

        if op == "generate":
            request = msgspec.convert(frame["request"], GenerateRequest)
            return EngineSequence.for_tokens(request, send)
        adapter = msgspec.convert(frame.get("adapter"), str | None)
        if op == "embed":
            pooling = msgspec.convert(frame.get("pooling"), Pooling | None)
            client = frame.get("client", "")
            return EngineSequence.for_whole(frame["ids"], "vector", send, pooling, client, adapter)
        wanted: dict[str, Any] = {"score": "scores"}
        return EngineSequence.for_whole(frame["ids"], wanted[op], send, adapter=adapter)

    def _send(self, number: int, kind: str, body: Any) -> None:
        """Called in the engine's thread; the loop sends it after the step."""
        if kind == "error":
            error = body if isinstance(body, BessemerError) else EngineUnavailable(str(body))
            body = describe_error(error)
        elif kind == "chunk":
            body = msgspec.to_builtins(body)
        with self._lock:
            self._news.append((number, kind, body))


if __name__ == "__main__":
    sys.exit(main())
