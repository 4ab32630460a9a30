"""A batch from its lines to its files: one result or one named fault a line, whatever happens."""

from __future__ import annotations

import asyncio
import codecs
import json
import resource
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from bessemer.app import batch_lines, batches, files
from bessemer.app.batch_lines import MAX_LINE_BYTES
from bessemer.app.batch_results import Result, ResultLog, Tokens
from bessemer.app.batch_work import IN_FLIGHT
from bessemer.app.platform import Platform
from bessemer.core.errors import Conflict, InvalidInput, NotFound, OutOfSpace, PermissionDenied
from bessemer.core.principal import Principal
from tests.app.batching import CHAT, Echo, done, going, line, reached, run, submit, written
from tests.polling import until_async


def test_every_line_is_answered_once_in_the_order_of_the_input(
    platform: Platform, owner: Principal
) -> None:
    count = 200
    lines = [line(f"id {n}", n=n, status=400 if n % 10 == 3 else 200) for n in range(count)]
    lines.insert(5, b"\r\n")  # no request
    lines[-1] = lines[-1].rstrip()  # nor is a last newline needed
    lines[0] = b"\xef\xbb\xbf" + lines[0]
    batch = submit(platform, owner, lines, metadata={"night": "ly"})
    assert (batch.status, batch.total) == ("validating", 0)
    echo = Echo()
    batch = run(platform, echo, batch)
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 200, 180, 20)
    assert batch.model == "m" and batch.metadata == {"night": "ly"}
    assert list(batch.moments) == ["in_progress", "finalizing", "completed"]
    used = batch.usage
    assert (used.prompt_tokens, used.cached_tokens, used.completion_tokens) == (540, 180, 360)
    output, errors = written(platform, batch, "output"), written(platform, batch, "error")
    assert [item["custom_id"] for item in output] == [
        f"id {n}" for n in range(count) if n % 10 != 3
    ]
    assert [item["custom_id"] for item in errors] == [f"id {n}" for n in range(3, count, 10)]
    first = output[0]
    assert set(first) == {"id", "custom_id", "response", "error"} and first["error"] is None
    assert first["response"] | {"request_id": ""} == {
        "status_code": 200, "request_id": "", "body": {"model": "m", "n": 0, "status": 200},
    }  # fmt: skip
    ids = {item["id"] for item in output + errors}
    assert len(ids) == count and all(id_.startswith("batch_req_") for id_ in ids)
    assert len(echo.asked) == count and echo.clients == {batch.id}
    assert echo.most_running <= IN_FLIGHT
    (principal,) = echo.principals
    assert (principal.project_id, principal.owner_id) == (owner.project_id, owner.owner_id)
    assert list(platform.home.batches.iterdir()) == []


BAD = {
    "invalid_json_line": [
        b"{", b"nonsense", line("x")[:-3], line("x").rstrip() + b"}",
        line("x").replace(b'"m"', b"[" * 100_000 + b"]" * 100_000), line("x").replace(b'"m"', b"m"),
    ],
    "invalid_utf8": [b'{"custom_id":"\xff"}'],
    "invalid_request": [
        b"[]", b"{}", b'"a"', line("x").replace(b'"method"', b'"way"'),
        line("x").replace(b'"url"', b'"also":1,"url"'),
        b'{"custom_id":"x","method":"POST","url":"/v1/chat/completions","body":[1]}',
        b'{"custom_id":7,"method":"POST","url":"/v1/chat/completions","body":{}}',
    ],
    "invalid_method": [line("x").replace(b"POST", b"GET")],
    "invalid_url": [line("x", "/v1/embeddings"), line("x", "https://evil/v1/chat/completions")],
    "invalid_custom_id": [line(""), line("x" * 513)],
    "line_too_long": [line("x", text="y" * MAX_LINE_BYTES)],
}  # fmt: skip


@pytest.mark.parametrize("code", BAD)
def test_a_fault_is_named_with_its_line_and_nothing_is_asked(
    platform: Platform, owner: Principal, code: str
) -> None:
    bad = [raw.rstrip() + b"\n" for raw in BAD[code]]
    lines = [line("a"), b" \n", *bad, line("b")]
    echo = Echo()
    batch = run(platform, echo, submit(platform, owner, lines))
    assert (batch.status, batch.total, echo.asked) == ("failed", 0, [])
    found = [(fault.line, fault.code) for fault in batch.faults]
    assert found == [(3 + n, code) for n in range(len(bad))]
    assert all(fault.message for fault in batch.faults)
    assert "failed" in batch.moments and list(platform.home.batches.iterdir()) == []


def test_a_fault_names_the_field_and_not_all_of_a_long_one(
    platform: Platform, owner: Principal
) -> None:
    bad = {
        b"[]": None,
        b"{}": "custom_id",
        line("a").replace(b'"url"', b'"also":1,"url"'): "also",
        line("d").replace(b'"url"', b'"":1,"url"'): "",
        line("b").replace(b'"POST"', b"null"): "method",
        line("c").replace(b'"url"', b'"' + b"long" * 10_000 + b'":1,"url"'): "long" * 50,
    }
    batch = run(platform, Echo(), submit(platform, owner, [raw.strip() + b"\n" for raw in bad]))
    assert [fault.param for fault in batch.faults] == list(bad.values())
    assert all(len(fault.message) < 400 for fault in batch.faults)


def test_an_id_that_is_there_already_names_both_lines(platform: Platform, owner: Principal) -> None:
    batch = run(platform, Echo(), submit(platform, owner, [line("a"), line("b"), line("a")]))
    (fault,) = batch.faults
    assert (fault.code, fault.line, fault.param) == ("duplicate_custom_id", 3, "custom_id")
    assert "line 1" in fault.message


def test_no_request_and_too_many_are_faults_of_the_file(
    platform: Platform, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(platform, Echo(), submit(platform, owner, [b"\n \n"])).faults[0].code == "empty_file"
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    batch = run(platform, Echo(), submit(platform, owner, [line(str(n)) for n in range(4)]))
    assert [fault.code for fault in batch.faults] == ["too_many_requests"]
    monkeypatch.setattr(batch_lines, "MOST_FAULTS", 2)
    batch = run(platform, Echo(), submit(platform, owner, [b"x\n"] * 5))
    assert [fault.line for fault in batch.faults] == [1, 2, None]
    assert "3 more" in batch.faults[-1].message


GOOD_BODIES = st.fixed_dictionaries(
    {"status": st.sampled_from([200, 400, 404]), "text": st.text(max_size=20)}
)
BAD_LINES = st.sampled_from([raw for raws in BAD.values() for raw in raws if len(raw) < 10_000])
LINES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abcdefghijkl"), GOOD_BODIES),
        BAD_LINES,
        # A byte order mark at the beginning of a file is no part of its first line.
        st.binary(max_size=30)
        .map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))
        .filter(lambda raw: not raw.startswith(codecs.BOM_UTF8)),
    ),
    max_size=12,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(LINES)
def test_any_lines_give_one_result_or_one_named_fault_each(
    platform: Platform, owner: Principal, found: list[Any]
) -> None:
    raws = [
        raw.rstrip(b"\n") if isinstance(raw, bytes) else line(raw[0], **raw[1]).rstrip()
        for raw in found
    ]
    wrong, seen = set(), set()
    for number, item in enumerate(found, 1):
        if isinstance(item, bytes):
            if item.strip():
                wrong.add(number)
        elif item[0] in seen:
            wrong.add(number)
        else:
            seen.add(item[0])
    batch = run(platform, Echo(), submit(platform, owner, [raw + b"\n" for raw in raws]))
    if wrong:
        assert batch.status == "failed"
        assert sorted(fault.line or 0 for fault in batch.faults) == sorted(wrong)
        return
    if not seen:
        assert [fault.code for fault in batch.faults] == ["empty_file"]
        return
    results = written(platform, batch, "output") + written(platform, batch, "error")
    assert batch.status == "completed"
    assert sorted(item["custom_id"] for item in results) == sorted(seen)
    asked = {item[0]: item[1] for item in found if not isinstance(item, bytes)}
    for item in results:
        body = item["response"]["body"]
        assert item["response"]["status_code"] == asked[item["custom_id"]]["status"]
        assert body["text"] == asked[item["custom_id"]]["text"]


def test_a_full_engine_is_asked_again_and_a_wrong_request_is_not(
    platform: Platform, owner: Principal
) -> None:
    echo = Echo()
    lines = [line("busy", busy=2), line("wrong", status=400), line("fine")]
    batch = run(platform, echo, submit(platform, owner, lines))
    assert (batch.completed, batch.failed) == (2, 1)
    assert [sum(a.get("busy") == 2 for a in echo.asked), len(echo.asked)] == [3, 5]


def test_cancelled_keeps_what_was_finished(platform: Platform, owner: Principal) -> None:
    async def work() -> batches.Batch:
        echo = Echo()
        batch = submit(platform, owner, [line(str(n), hold=n >= 5) for n in range(40)])
        async with going(platform, echo):
            await until_async(lambda: echo.running == IN_FLIGHT, "the rest is held")
            await reached(platform, batch, "in_progress")
            asked = batches.cancel(platform, owner, batch.id)
            assert asked.status == "cancelling" and "cancelling" in asked.moments
            ended = await done(platform, batch)
            assert echo.running == 0
        with pytest.raises(Conflict):
            batches.cancel(platform, owner, batch.id)
        return ended

    batch = asyncio.run(work())
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("cancelled", 40, 5, 0)
    assert [item["custom_id"] for item in written(platform, batch, "output")] == list("01234")
    assert batch.error_file_id is None


def test_cancelled_before_it_began_asks_nothing(platform: Platform, owner: Principal) -> None:
    echo = Echo()
    for lines in ([line("a")], [b"broken\n"]):
        batch = submit(platform, owner, lines)
        assert batches.cancel(platform, owner, batch.id).status == "cancelling"
        assert batches.cancel(platform, owner, batch.id).status == "cancelling"
        batch = run(platform, echo, batch)
        assert (batch.status, batch.output_file_id, echo.asked) == ("cancelled", None, [])


def test_expired_keeps_what_was_finished_and_says_so_of_the_rest(
    platform: Platform, owner: Principal
) -> None:
    late_ms = 0

    def clock() -> int:
        return time.time_ns() // 1_000_000 + late_ms

    async def work() -> batches.Batch:
        nonlocal late_ms
        echo = Echo()
        lines = [line(str(n), hold=n >= 3, status=404 if n == 1 else 200) for n in range(30)]
        batch = submit(platform, owner, lines)
        async with going(platform, echo, clock):
            await until_async(lambda: echo.running == IN_FLIGHT, "the rest is held")
            late_ms = batches.WINDOW_S * 1000 - 60_000
            await asyncio.sleep(0.1)
            assert (await reached(platform, batch, "in_progress", "expired")).status == (
                "in_progress"
            ), "a minute is left"
            late_ms += 61_000
            return await done(platform, batch)

    batch = asyncio.run(work())
    assert (batch.status, batch.completed, batch.failed) == ("expired", 2, 28)
    assert [item["custom_id"] for item in written(platform, batch, "output")] == ["0", "2"]
    errors = written(platform, batch, "error")
    assert [item["custom_id"] for item in errors] == [str(n) for n in range(30) if n not in (0, 2)]
    assert errors[0]["response"]["status_code"] == 404
    assert errors[1]["response"] is None and errors[1]["error"]["code"] == "batch_expired"


def test_a_server_that_stops_goes_on_with_what_is_left(
    platform: Platform, owner: Principal
) -> None:
    async def work() -> tuple[Echo, batches.Batch]:
        echo, later = Echo(), Echo()
        batch = submit(platform, owner, [line(str(n), hold=n >= 7) for n in range(20)])
        async with going(platform, echo):
            await until_async(lambda: echo.running == 13, "the rest is held")
            await until_async(
                lambda: batches.get(platform, owner, batch.id).completed == 7, "seven are told of"
            )
        # Its input has no name any more, and is there all the same.
        files.delete(platform, owner, batch.input_file_id)
        later.go.set()
        async with going(platform, later):
            return later, await done(platform, batch)

    later, batch = asyncio.run(work())
    assert (batch.status, batch.completed) == ("completed", 20)
    assert len(later.asked) == 13
    ids = [item["custom_id"] for item in written(platform, batch, "output")]
    assert ids == [str(n) for n in range(20)]


def test_two_batches_share_the_places_of_a_model(platform: Platform, owner: Principal) -> None:
    async def work() -> Echo:
        echo = Echo()
        both = [submit(platform, owner, [line(str(n), hold=True) for n in range(30)])
                for _ in range(2)]  # fmt: skip
        async with going(platform, echo):
            await until_async(lambda: echo.running == IN_FLIGHT, "all places are taken")
            echo.go.set()
            for batch in both:
                await done(platform, batch)
        return echo

    echo = asyncio.run(work())
    assert echo.most_running == IN_FLIGHT and len(echo.clients) == 2 and len(echo.asked) == 60


def test_what_cannot_be_a_batch_is_refused_at_once(
    platform: Platform, owner: Principal, stranger: Principal
) -> None:
    wrong = files.add_bytes(platform, owner, "a", "fine-tune", b"")
    right = files.add_bytes(platform, owner, "a", "batch", b"")
    with pytest.raises(InvalidInput, match="fine-tune"):
        batches.create(platform, owner, wrong.id, CHAT)
    with pytest.raises(InvalidInput, match="/v1/moderations"):
        batches.create(platform, owner, right.id, "/v1/moderations")
    theirs = files.add_bytes(platform, stranger, "a", "batch", b"")
    for none in ("file-none", theirs.id):
        with pytest.raises(NotFound) as caught:
            batches.create(platform, owner, none, CHAT)
        assert caught.value.param == "input_file_id"
    poor = Principal(owner.org_id, owner.project_id, "x", frozenset({"batches:write"}))
    with pytest.raises(PermissionDenied, match="chat"):
        batches.create(platform, poor, right.id, CHAT)


def test_an_input_that_is_gone_before_it_is_read_is_a_fault(
    platform: Platform, owner: Principal
) -> None:
    batch = submit(platform, owner, [line("a")])
    files.delete(platform, owner, batch.input_file_id)
    batch = run(platform, Echo(), batch)
    assert (batch.status, batch.faults[0].code) == ("failed", "file_not_found")


def test_output_files_expire_when_they_were_asked_to(platform: Platform, owner: Principal) -> None:
    batch = run(platform, Echo(), submit(platform, owner, [line("a")], output_expires_s=3600))
    file = files.get(platform, owner, batch.output_file_id or "")
    assert file.expires_ms == file.created_ms + 3_600_000


# The log of results


def result(number: int, size: int = 10) -> Result:
    return Result(number, True, Tokens(1, 0, 1), {}, Raw(json.dumps("x" * size).encode()))


def log_of(path: Path, lines: int, numbers: list[int]) -> ResultLog:
    async def write() -> ResultLog:
        log = ResultLog(path, lines)
        await asyncio.gather(*(log.append(result(number)) for number in numbers))
        await log.close()
        return log

    return asyncio.run(write())


def test_a_log_cut_at_any_byte_has_the_records_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "results"
    log_of(path, 5, [3, 0, 4])
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        for tail in (b"", b"\0" * 7, b"\0" * 7 + b"\n"):
            path.write_bytes(whole[:cut] + tail)
            kept = [number for end, number in zip(ends, [3, 0, 4], strict=True) if end <= cut]
            log = log_of(path, 5, [])
            assert [n for n in range(5) if n in log] == sorted(kept)
            assert log.tally.tokens == Tokens(len(kept), 0, len(kept))
            assert path.read_bytes() == whole[: max([0, *(end for end in ends if end <= cut)])]
    log = log_of(path, 5, [1])
    assert [found is not None for found in log.read()] == [n in log for n in range(5)]


def test_a_record_with_a_flipped_bit_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "results"
    log_of(path, 2, [0, 1])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 1
    path.write_bytes(raw)
    assert 0 not in log_of(path, 2, [])
    assert zlib.crc32(b"") == 0


def test_a_full_disk_fails_the_append_and_leaves_no_half_record(tmp_path: Path) -> None:
    path = tmp_path / "results"

    async def write() -> None:
        log = ResultLog(path, 9)
        await log.append(result(0))
        before = path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
        try:
            with pytest.raises(OutOfSpace):
                await log.append(result(1, 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before and 1 not in log
        await log.append(result(1))
        await log.close()
        assert log.tally.completed == 2

    asyncio.run(write())
    assert 1 in log_of(path, 9, [])
