"""An event is whole or absent for a reader, whoever is killed and whoever reads meanwhile."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bessemer.core.events import EventLog, read_events


def write_all(path: Path, count: int) -> None:
    log = EventLog(path)
    for step in range(count):
        log.write("step", step=step)
    log.close()


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    write_all(tmp_path / "e", 3)
    assert [event["step"] for event in read_events(tmp_path / "e").events] == [0, 1, 2]


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none") == ([], 0)


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_all(path, 2)
    first = read_events(path)
    write_all(path, 1)
    second = read_events(path, first.offset)
    assert [event["step"] for event in second.events] == [0]
    assert second.offset == path.stat().st_size
    assert read_events(path, second.offset) == ([], second.offset)


def test_a_torn_line_is_not_read_until_its_end_arrives(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_all(path, 1)
    with path.open("ab") as file:
        file.write(b'{"t":1,"kind":"st')
    torn = read_events(path)
    assert len(torn.events) == 1
    with path.open("ab") as file:
        file.write(b'ep","step":7}\n')
    assert [event["step"] for event in read_events(path, torn.offset).events] == [7]


def test_the_next_writer_heals_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_all(path, 1)
    with path.open("ab") as file:
        file.write(b'{"t":1,"kind":"st')
    write_all(path, 2)
    assert [event["step"] for event in read_events(path).events] == [0, 0, 1]


@given(st.integers(min_value=0, max_value=10_000))
def test_a_log_cut_at_any_byte_loses_at_most_the_event_it_was_cut_in(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e"
        write_all(path, 5)
        data = path.read_bytes()[: cut % (path.stat().st_size + 1)]
        path.write_bytes(data)
        write_all(path, 1)
        steps = [event["step"] for event in read_events(path).events]
    # A cut exactly before a line's end leaves that line whole, and healing ends it.
    whole = data.count(b"\n") + (1 if data and data[-1:] == b"}" else 0)
    assert steps == [*range(whole), 0]


def test_nan_and_infinity_are_written_as_words(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e")
    written = log.write("step", loss=math.nan, more=[math.inf, {"x": -math.inf}], fine=1.5)
    log.close()
    (event,) = read_events(tmp_path / "e").events
    assert event == written
    assert (event["loss"], event["more"], event["fine"]) == ("nan", ["inf", {"x": "-inf"}], 1.5)


WRITER = """
import sys
from pathlib import Path
from bessemer.core.events import EventLog

log = EventLog(Path(sys.argv[1]))
for step in range(int(sys.argv[2])):
    log.write("step", step=step, text="x" * (step % 500))
"""


def test_a_reader_beside_a_writer_sees_every_event_once_and_whole(tmp_path: Path) -> None:
    path, count, offset = tmp_path / "e", 3000, 0
    steps: list[int] = []
    reads = 0
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(count)])
    while len(steps) < count:
        over = writer.poll() is not None
        events, offset = read_events(path, offset)
        assert all(len(event["text"]) == event["step"] % 500 for event in events)
        steps += [event["step"] for event in events]
        reads += 1
        assert not over or len(steps) == count, f"{len(steps)} of {count} events"
    assert writer.wait() == 0
    assert steps == list(range(count))
    assert reads > 1


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from bessemer.core.events import EventLog

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = EventLog(Path(sys.argv[1]))
log.write("step", step=0)
room = Path(sys.argv[1]).stat().st_size + 20
resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
try:
    log.write("step", step=1)
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write("state", state="failed")
"""


def test_an_event_that_did_not_fit_on_the_disk_does_not_take_the_next_one_with_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "e"
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=True)
    assert [event["kind"] for event in read_events(path).events] == ["step", "state"]
