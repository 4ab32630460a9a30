"""What the gateway adds to an answer, and how many it gives a second, beside LiteLLM's proxy.

    python benchmarks/gateway.py [--seconds 3] [--litellm VENV/bin/litellm] [--requests 200000]

The engine is a fake that answers at once, so what is measured is everything else: HTTP,
authentication, parsing, rate limits, the budget, the durable reservation, settling, writing JSON.

    bare       uvicorn and an ASGI function that sends the same bytes: the floor, and the upstream
    bessemer   the gateway over a fake engine in its process; all of the above is on
    proxying   the gateway as a proxy of `bare`, by `bessemer targets`' own code
    litellm    LiteLLM's proxy of `bare`, with a master key and without a database

Each server has one core and the client the other. "added" is over `bare`, one request at a time;
requests/s are those of 32 callers. `--litellm` names a program that is there; without it the
script makes a venv in a cache folder, once. `--requests` sends so many more and tells the server's
memory before and after; 500 streams are always opened at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TOKENS = 16
CALLERS = 32
STREAMS = 500
SERVER_CORE, CLIENT_CORE = 0, 1
KEY = "sk-bsm-the-benchmarks-own-key"
BODY = (
    b'{"model":"fake","max_tokens":64,"messages":[{"role":"system","content":"You are terse."},'
    b'{"role":"user","content":"What is the capital of France?"}]'
)
WHOLE, STREAMED = BODY + b"}", BODY + b',"stream":true,"stream_options":{"include_usage":true}}'
LITELLM = """
model_list:
  - model_name: fake
    litellm_params: {{model: openai/fake, api_base: "{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""


class Found(NamedTuple):
    """Of one server: ms of one request at a time, and requests a second of 32 callers."""

    p50_ms: float
    p99_ms: float
    rate: float


# --- servers, each in a process of its own -------------------------------------------------------


def serve_bare() -> None:
    """The fake upstream: a fixed answer, whole or streamed."""
    from bessemer.gateway.server import serve

    pieces = [f'{{"content":"word{n} "}}' for n in range(TOKENS)]
    usage = (
        f'"usage":{{"prompt_tokens":20,"completion_tokens":{TOKENS},"total_tokens":{TOKENS + 20}}}'
    )
    said = " ".join(f"word{n}" for n in range(TOKENS))
    head = '"id":"chatcmpl-1","created":1700000000,"model":"fake"'
    whole = (
        f'{{{head},"object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant"'
        f',"content":"{said}"}},"logprobs":null,"finish_reason":"stop"}}],{usage}}}'
    ).encode()

    def chunk(delta: str, reason: str) -> bytes:
        return (
            f'data: {{{head},"object":"chat.completion.chunk","choices":[{{"index":0'
            f',"delta":{delta},"finish_reason":{reason}}}]}}\n\n'
        ).encode()

    events = [chunk(piece, "null") for piece in pieces] + [chunk("{}", '"stop"')]
    events.append(
        f'data: {{{head},"object":"chat.completion.chunk","choices":[],{usage}}}\n\n'.encode()
    )
    events.append(b"data: [DONE]\n\n")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        streamed = b'"stream":true' in body.replace(b" ", b"")
        kind = b"text/event-stream" if streamed else b"application/json"
        headers = [(b"content-type", kind)]
        if not streamed:
            headers.append((b"content-length", b"%d" % len(whole)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events if streamed else ():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"" if streamed else whole})

    serve(app, port=0, started=lambda url: print(url, flush=True))


def serve_bessemer(folder: Path, upstream: str | None) -> None:
    """The gateway as `bessemer up` builds it, over a fake engine or over `upstream`."""
    from bessemer.access.keys import hash_secret
    from bessemer.access.tables import api_keys
    from bessemer.app.keys import KeyRing, create_key
    from bessemer.app.metering import Meter
    from bessemer.app.platform import Platform
    from bessemer.app.target_serving import TargetServing
    from bessemer.app.targets import Target, add_target
    from bessemer.core.home import Home
    from bessemer.gateway.asgi import build
    from bessemer.gateway.server import serve
    from bessemer.ledger.budgets import set_budget
    from bessemer.ledger.cards import adopt
    from bessemer.ledger.rate_card import RateCard
    from bessemer.ledger.rate_limits import LimitOf, RateLimit, set_rate_limit

    card = 'currency = "usd"\n[[rates]]\nmodel = "*"\nprompt = 150_000\ncompletion = 600_000'
    with Platform.open(Home(folder)) as platform:
        who = platform.local_principal()
        key = create_key(platform, who, "benchmark")
        with platform.db.write() as connection:
            connection.execute(api_keys.update().values(secret_hash=hash_secret(KEY)))
            adopt(connection, who, RateCard.parse(card))
            for scope in ("project", "org"):
                set_budget(connection, who, scope, "month", 10**15)
            for account in (f"project:{who.project_id}", f"key:{key.id}"):
                limit = RateLimit(10**9, 10**12)
                set_rate_limit(connection, who, LimitOf(account, "*"), limit)
        serving: Any = _serving()
        if upstream is not None:
            add_target(platform, who, "fake", Target(url=upstream + "/v1", model="fake"))
            serving = TargetServing(platform, _Nothing())
        app = build(serving, KeyRing(platform), meter=Meter.of(platform))
        serve(app, port=0, started=lambda url: print(url, flush=True))


def _serving() -> Any:
    from bessemer.core.protocols import ChatRequest, Delta, Usage

    class Fake:
        """A responder whose engine answers at once."""

        model_digest = "sha256:" + "0" * 64

        async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
            tally = request.tally
            assert tally is not None
            await tally.expect("fake", 20, request.max_tokens or TOKENS)
            for number in range(TOKENS):
                tally.count(20, 0, number + 1)
                yield Delta(text=f"word{number} ")
            usage = Usage(prompt_tokens=20, completion_tokens=TOKENS)
            yield Delta(finish_reason="stop", usage=usage)

    class Serving:
        async def responder(self, _principal: Any, _model: str) -> Fake:
            return responder

    responder = Fake()
    return Serving()


class _Nothing:
    """A serving without models, in front of partners."""

    async def responder(self, _principal: Any, model: str) -> Any:
        from bessemer.app.chat import no_such_model

        raise no_such_model(model)


@contextlib.contextmanager
def server(*words: str) -> Iterator[tuple[str, int]]:
    """This script as a server on its core; its URL and pid."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", *words], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def litellm(program: Path, upstream: str, folder: Path) -> Iterator[str]:
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(upstream=upstream, key=KEY))
    port = "4817"
    words = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen(
        [*words, "--num_workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until_s = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(url + "/health/liveliness", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until_s, "litellm: no start"
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait()


def litellm_program(given: Path | None) -> Path | None:
    """The program that was named, or one in a venv of its own; None if it cannot be installed."""
    if given is not None:
        return given
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    venv = base / "bessemer" / "litellm"
    program = venv / "bin" / "litellm"
    if not program.exists():
        done = subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False).returncode
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "litellm[proxy]"]
        if done or subprocess.run(pip, check=False).returncode:
            print("litellm[proxy] cannot be installed here; only Bessemer is measured")
            return None
    return program


# --- the client: as little as speaks HTTP --------------------------------------------------------


class Connection:
    """Sends the same request again and again over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes):
        self._reader, self._writer = reader, writer
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nAuthorization: Bearer " + KEY.encode()
            + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, url: str, body: bytes) -> AsyncIterator[Connection]:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        yield cls(reader, writer, body)
        writer.close()

    async def ask(self) -> int:
        """Bytes of the answer's body."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head + await self._reader.read(500)
        lower = head.lower()
        if b"content-length:" in lower:
            length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            return len(await self._reader.readexactly(length))
        return len(await self._reader.readuntil(b"\r\n0\r\n\r\n"))


async def one_at_a_time(url: str, body: bytes, seconds: float) -> list[float]:
    waits_ms = []
    async with Connection.to(url, body) as connection:
        for _ in range(50):
            await connection.ask()
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            begin_s = time.perf_counter()
            await connection.ask()
            waits_ms.append((time.perf_counter() - begin_s) * 1000)
    return sorted(waits_ms)


async def together(url: str, body: bytes, callers: int, seconds: float) -> float:
    done, end_s = 0, time.perf_counter() + seconds

    async def call() -> None:
        nonlocal done
        async with Connection.to(url, body) as connection:
            while time.perf_counter() < end_s:
                await connection.ask()
                done += 1

    begin_s = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return done / (time.perf_counter() - begin_s)


async def streams_at_once(url: str, count: int) -> float:
    """Seconds until all have ended; every connection stands before the first request."""
    async with contextlib.AsyncExitStack() as stack:
        to = [await stack.enter_async_context(Connection.to(url, STREAMED)) for _ in range(count)]
        begin_s = time.perf_counter()
        await asyncio.gather(*(connection.ask() for connection in to))
        return time.perf_counter() - begin_s


async def send(url: str, count: int) -> None:
    left = iter(range(count))

    async def call() -> None:
        async with Connection.to(url, WHOLE) as connection:
            for _ in left:
                await connection.ask()

    await asyncio.gather(*(call() for _ in range(CALLERS)))


def measure(url: str, body: bytes, seconds: float) -> Found:
    waits_ms = asyncio.run(one_at_a_time(url, body, seconds))
    rate = asyncio.run(together(url, body, CALLERS, seconds))
    return Found(statistics.median(waits_ms), waits_ms[int(0.99 * len(waits_ms))], rate)


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tell(name: str, found: Found, bare: Found) -> None:
    p50, p99 = found.p50_ms - bare.p50_ms, found.p99_ms - bare.p99_ms
    print(
        f"{name:<22} {found.p50_ms:>8.2f} {p50:>10.2f} {p99:>10.2f} {found.rate:>12,.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--litellm", type=Path, help="the program, if it is installed already")
    parser.add_argument("--no-litellm", action="store_true", help="measure without the peer")
    parser.add_argument("--requests", type=int, default=0, help="so many for the memory")
    parser.add_argument("--folder", type=Path, help="where the database is; its disk matters")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, *rest = options.serve
        if kind == "bare":
            serve_bare()
        else:
            serve_bessemer(Path(rest[0]), rest[1] if len(rest) > 1 else None)
        return
    program = None if options.no_litellm else litellm_program(options.litellm)
    os.sched_setaffinity(0, {CLIENT_CORE})
    print(f"{'':<22} {'p50 ms':>8} {'added p50':>10} {'added p99':>10} {'requests/s':>12}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name, server("bare") as up:
        folder, (upstream, _) = Path(name), up
        for title, body in (("whole", WHOLE), ("streamed", STREAMED)):
            bare = measure(upstream, body, options.seconds)
            tell(f"{title}: bare", bare, bare)
            with server("bessemer", str(folder / title)) as (url, pid):
                tell(f"{title}: bessemer", measure(url, body, options.seconds), bare)
                if title == "streamed":
                    _extremes(url, pid, options.requests)
            with server("bessemer", str(folder / f"p{title}"), upstream) as (url, _pid):
                tell(f"{title}: proxying", measure(url, body, options.seconds), bare)
            if program is not None:
                with litellm(program, upstream, folder) as url:
                    tell(f"{title}: litellm", measure(url, body, options.seconds), bare)


def _extremes(url: str, pid: int, requests: int) -> None:
    took_s = asyncio.run(streams_at_once(url, STREAMS))
    print(f"  {STREAMS} streams at once, all whole, in {took_s:.2f} s")
    if requests:
        asyncio.run(send(url, 5_000))
        before = resident_mb(pid)
        begin_s = time.perf_counter()
        asyncio.run(send(url, requests))
        took_s = time.perf_counter() - begin_s
        print(f"  {requests:,} requests in {took_s:.0f} s: {before:.1f} MB before,"
              f" {resident_mb(pid):.1f} MB after")  # fmt: skip


if __name__ == "__main__":
    main()
