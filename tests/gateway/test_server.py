"""A real server on a real port: who leaves, who is slow, who sends too much, and stopping."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bessemer.core.errors import EngineUnavailable, InvalidInput, PortInUse
from bessemer.gateway.asgi import build
from bessemer.gateway.connection import HttpConnection
from bessemer.gateway.exchange import MAX_BODY_BYTES
from bessemer.gateway.server import Server, bind, serve, url_of
from tests.fakes import FakeResponder, FakeServing
from tests.gateway.calling import KEY, MESSAGES, FakeKeyRing, Running, app_of, running
from tests.polling import until


def request_bytes(path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    named = {"Host": "localhost", "Authorization": f"Bearer {KEY}", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{k}: {v}" for k, v in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def chat_request(**fields: object) -> bytes:
    body = json.dumps({"model": "tiny", "messages": MESSAGES, **fields}).encode()
    return request_bytes("/v1/chat/completions", {"Content-Length": str(len(body))}, body)


@contextlib.contextmanager
def connected(server: Running, data: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(data)
        yield sock


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    found = b""
    while mark not in found:
        piece = sock.recv(65536)
        assert piece, f"the connection ended before {mark!r}: {found!r}"
        found += piece
    return found


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


@pytest.mark.parametrize("n", [1, 4])
def test_who_leaves_in_the_middle_of_a_stream_ends_the_engines_work(n: int) -> None:
    responder = FakeResponder(["word "], hold_after=1)
    with running(app_of(responder)) as server:
        with connected(server, chat_request(stream=True, n=n)) as sock:
            read_until(sock, b"word")
            assert responder.closed == 0
        until(lambda: responder.closed == n, "every responder is closed")


def test_who_leaves_before_a_whole_answer_ends_the_engines_work() -> None:
    responder = FakeResponder(hold_after=1)
    with running(app_of(responder)) as server:
        with connected(server, chat_request()):
            until(lambda: responder.opened == 1, "the responder is asked")
        until(lambda: responder.closed == 1, "the responder is closed")


def test_who_leaves_while_sending_asks_nothing() -> None:
    responder = FakeResponder()
    with running(app_of(responder)) as server:
        with connected(server, chat_request()[:-10]):
            pass
        with connected(server, chat_request()) as sock:
            read_until(sock, b"}")
        assert responder.opened == 1


def test_who_stops_sending_in_the_middle_of_a_body_is_told_and_let_go() -> None:
    responder = FakeResponder()
    app = build(FakeServing({"tiny": responder}), FakeKeyRing(), silence_s=0.2)
    with running(app) as server, connected(server, chat_request()[:-10]) as sock:
        said = read_all(sock)
    assert b" 408 " in said and b'"code":"request_timeout"' in said
    assert responder.opened == 0


def test_who_reads_slowly_slows_only_the_own_answer_and_fills_no_memory() -> None:
    big = FakeResponder(["x" * 10_000], endless=True)
    with running(app_of(big)) as server, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(chat_request(stream=True))
        read_until(slow, b"xxxx")
        # Nobody reads now: the responder must come to a stand.
        stands_at = _stands_at(big)
        with connected(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as other:
            assert b"200 OK" in read_until(other, b"}")
        assert big.said == stands_at
        assert stands_at * 10_000 < 20_000_000
        read_until(slow, b"x" * 4096)
        slow.close()
        until(lambda: big.closed == 1, "the responder is closed")


def _stands_at(responder: FakeResponder) -> int:
    """How much was said once 0.2 s pass without another word."""
    said, since = responder.said, time.monotonic()
    deadline = since + 20
    while time.monotonic() < since + 0.2:
        assert time.monotonic() < deadline, "it never stopped talking to nobody"
        if responder.said != said:
            said, since = responder.said, time.monotonic()
        time.sleep(0.01)
    return said


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_too_large_is_answered_and_the_connection_lives_on(announced: bool) -> None:
    responder = FakeResponder()
    piece = b" " * 1_000_000
    count = MAX_BODY_BYTES // len(piece) + 2
    with running(app_of(responder)) as server:
        if announced:
            head = request_bytes(
                "/v1/chat/completions", {"Content-Length": str(count * len(piece))}
            )
            body = piece * count
        else:
            head = request_bytes("/v1/chat/completions", {"Transfer-Encoding": "chunked"})
            body = b"%x\r\n%s\r\n" % (len(piece), piece) * count + b"0\r\n\r\n"
        with connected(server, head + body) as sock:
            assert b"413" in read_until(sock, b"payload_too_large")
            sock.sendall(chat_request())
            assert b"200 OK" in read_until(sock, b"chat.completion")
    assert responder.opened == 1


def test_stopping_tells_open_answers_why_they_are_not_whole() -> None:
    hangs = FakeResponder(["a"], hold_after=1)
    closed_before_leaving: list[int] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        closed_before_leaving.append(hangs.closed)

    with (
        running(app_of(hangs), grace_s=1, lifespan=lifespan()) as server,
        connected(server, chat_request(stream=True)) as sock,
    ):
        read_until(sock, b'"a"')
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        last = read_all(sock)
    assert b"server_stopping" in last
    assert last.endswith(b"0\r\n\r\n"), "the stream was cut"
    assert closed_before_leaving == [1], "what answers stand on was taken away before they ended"


def test_stopping_lets_an_answer_end_that_ends_in_time() -> None:
    ends = FakeResponder(["a", "b"], hold_after=1)
    with (
        running(app_of(ends), grace_s=20) as server,
        connected(server, chat_request(stream=True)) as sock,
    ):
        read_until(sock, b'"a"')
        server.server.stop()
        server.do(ends.go.set)
        last = read_all(sock)
    assert b'"b"' in last
    assert b"[DONE]" in last


def test_stopping_does_not_wait_for_an_upload_that_never_ends() -> None:
    with (
        running(app_of(FakeResponder()), grace_s=1) as server,
        connected(server, chat_request()[:-10]) as sock,
    ):
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5
        assert b" 503 " in read_all(sock)


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse) as found:
            serve(app_of(FakeResponder()), "127.0.0.1", port)
    assert str(port) in found.value.message
    assert f"--port {port + 1}" in (found.value.next_step or "")


@pytest.mark.parametrize(
    ("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 99999), ("127.0.0.1", -1)]
)
def test_an_address_that_cannot_be_had_is_an_error_for_people(host: str, port: int) -> None:
    with pytest.raises(InvalidInput, match=r"cannot listen|not a port"):
        bind(host, port)


def test_urls_can_be_opened_in_a_browser() -> None:
    for host, shown in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]:
        with bind(host, 0) as sock:
            assert url_of(sock) == f"http://{shown}:{sock.getsockname()[1]}"


def test_the_lifespan_surrounds_serving_and_its_error_comes_out() -> None:
    steps: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        steps.append("in")
        yield
        steps.append("out")

    with running(app_of(FakeResponder()), lifespan=lifespan()) as server:
        assert steps == ["in"]
        server.stop()
    assert steps == ["in", "out"]

    @contextlib.asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        raise EngineUnavailable("no engine")
        yield

    sock = bind("127.0.0.1", 0)
    with pytest.raises(EngineUnavailable):
        Server(app_of(FakeResponder()), sock, lifespan=failing()).run()
    assert sock.fileno() == -1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_serve_and_the_program_goes_on(number: signal.Signals) -> None:
    program = textwrap.dedent(
        """
        from bessemer.gateway.server import serve
        from tests.fakes import FakeResponder
        from tests.gateway.calling import app_of
        serve(app_of(FakeResponder()), port=0, started=lambda url: print(url, flush=True))
        print("in order")
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (rest, process.returncode) == ("in order\n", 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        request_bytes("/v1/chat/completions", {"Authorization": "Bearer \x01"}),
        request_bytes("/v1/chat/completions", {"Content-Length": "-5"}),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_in_openais_shape(sent: bytes) -> None:
    with running(app_of(FakeResponder())) as server, connected(server, sent) as sock:
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert b"x-request-id: req_" in head


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pause_s", [0, 0.02])
def test_an_offer_of_http2_is_left_and_the_body_is_read(chunked: bool, pause_s: float) -> None:
    """As Java's client and `curl --http2` send it, one request after the other."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA"}
    body = json.dumps({"model": "tiny", "messages": MESSAGES}).encode()
    length = {"Content-Length": str(len(body))}
    if chunked:
        length = {"Transfer-Encoding": "chunked"}
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = request_bytes("/v1/chat/completions", {**offer, **length})
    with running(app_of(FakeResponder())) as server, connected(server, b"") as sock:
        for _ in range(2):
            sock.sendall(head)
            time.sleep(pause_s)  # then it is a packet of its own
            sock.sendall(body)
            assert b"Hello, world" in read_until(sock, b'"total_tokens":')
        sock.sendall((head + body) * 2)
        found = b""
        while found.count(b"Hello, world") < 2:
            found += read_until(sock, b"Hello, world")


@pytest.mark.parametrize("before", [b"", chat_request()])
def test_who_does_not_finish_a_head_is_told_and_let_go(
    before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpConnection, "head_s", 0.2)
    with running(app_of(FakeResponder())) as server, connected(server, before) as sock:
        if before:
            read_until(sock, b'"total_tokens":')
        sock.sendall(b"POST /v1/chat/comp")
        found = read_all(sock)
    assert b"HTTP/1.1 408 " in found and b'"code":"request_timeout"' in found


def test_an_answer_is_given_whatever_is_begun_behind_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HttpConnection, "head_s", 0.2)
    responder = FakeResponder(["word"], hold_after=0)
    begun = chat_request() + b"POST /v1/chat/comp"
    with running(app_of(responder)) as server, connected(server, begun) as sock:
        time.sleep(0.5)
        server.do(responder.go.set)
        found = read_all(sock)
    assert found.startswith(b"HTTP/1.1 200 OK") and b'"total_tokens":' in found
    assert b"HTTP/1.1 408 " in found.partition(b'"total_tokens":')[2]


def test_who_says_nothing_is_let_go_and_an_answer_takes_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HttpConnection, "head_s", 0.2)
    responder = FakeResponder(["word"], hold_after=0)
    with running(app_of(responder)) as server, connected(server, chat_request()) as waiting:
        with connected(server, b"") as silent:
            assert read_all(silent) == b""
        time.sleep(0.3)
        server.do(responder.go.set)
        assert b"200 OK" in read_until(waiting, b"total_tokens")
