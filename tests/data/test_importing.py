"""Importing checks everything first, loses nothing but exact copies, and keeps splits apart."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bessemer.core.digests import manifest_of
from bessemer.core.errors import DataError
from bessemer.data.corpus import SPLITS
from bessemer.data.dataset import Dataset
from bessemer.data.importing import import_examples


def chat(question: str, answer: str = "Yes.", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **more}


def write(path: Path, examples: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))
    return path


def questions_by_split(folder: Path) -> dict[str, list[str]]:
    dataset = Dataset.open(folder)
    return {name: [c.messages[0]["content"] for c in dataset.split(name)] for name in SPLITS}


def unlike(number: int) -> str:
    return " ".join(f"{number * 7919 + step * 104729:x}" for step in range(8))


def test_every_chat_is_in_one_split_and_none_is_empty(tmp_path: Path) -> None:
    examples = [chat(unlike(number)) for number in range(300)]
    summary = import_examples(write(tmp_path / "my.jsonl", examples), tmp_path / "out")
    found = questions_by_split(tmp_path / "out")
    everything = [question for split in found.values() for question in split]
    assert sorted(everything) == sorted(unlike(number) for number in range(300))
    assert summary["counts"] == {name: len(found[name]) for name in SPLITS}
    assert summary["counts"]["train"] > 240
    assert all(found.values())
    assert summary["name"] == "my"


def test_the_order_of_the_file_is_kept(tmp_path: Path) -> None:
    examples = [chat(unlike(number)) for number in range(50)]
    import_examples(write(tmp_path / "my.jsonl", examples), tmp_path / "out")
    order = [unlike(number) for number in range(50)]
    for questions in questions_by_split(tmp_path / "out").values():
        assert questions == sorted(questions, key=order.index)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_small_files_have_a_train_split_and_from_three_on_all(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("small")
    path = write(folder / "few.jsonl", [chat(unlike(number)) for number in range(count)])
    counts = import_examples(path, folder / "out", seed=seed)["counts"]
    assert sum(counts.values()) == count
    assert all(counts.values()) if count >= 3 else counts["train"] == count


def test_exact_copies_are_dropped_and_counted(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": unlike(1)}]
    same = {"messages": [{"content": parts, "role": "user"}, *chat("")["messages"][1:]]}
    examples = [chat(unlike(1)), chat(unlike(2)), chat(unlike(1)), same, chat(unlike(1), "No.")]
    summary = import_examples(write(tmp_path / "my.jsonl", examples), tmp_path / "out")
    assert summary["exact_duplicates_dropped"] == 2
    assert summary["chats"] == 3


def test_near_duplicates_are_kept_and_never_on_both_sides(tmp_path: Path) -> None:
    examples = [
        chat(f"{unlike(number)} {unlike(number + 500)}, please{mark}")
        for mark in ("", "!", "?")
        for number in range(100)
    ]
    summary = import_examples(write(tmp_path / "my.jsonl", examples), tmp_path / "out")
    assert summary["chats"] == 300
    assert summary["near_duplicates_kept_together"] == 200
    stems = [
        {question.rstrip("!?") for question in questions}
        for questions in questions_by_split(tmp_path / "out").values()
    ]
    assert sum(map(len, stems)) == len(set().union(*stems)) == 100


def test_shared_instructions_do_not_make_chats_alike(tmp_path: Path) -> None:
    system = {"role": "system", "content": "You are a careful assistant. " * 50}
    examples = [{"messages": [system, *chat(unlike(number))["messages"]]} for number in range(100)]
    summary = import_examples(write(tmp_path / "my.jsonl", examples), tmp_path / "out")
    assert summary["near_duplicates_kept_together"] == 0


def test_the_same_file_and_seed_make_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "my.jsonl", [chat(unlike(number)) for number in range(40)])
    digests = [
        (import_examples(path, tmp_path / name, seed=seed), manifest_of(tmp_path / name).digest)[1]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_weights_tools_and_calls_survive(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "get"}}
    messages = [
        {"role": "user", "content": "Get it."},
        {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": "It is 4.", "weight": 1},
    ]
    path = write(tmp_path / "my.jsonl", [{"messages": messages, "tools": [tool]}])
    import_examples(path, tmp_path / "out")
    (found,) = Dataset.open(tmp_path / "out").split("train")
    assert found.tools == [tool]
    assert found.messages == [messages[0], {**messages[1], "content": ""}, *messages[2:]]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    lines = [json.dumps(chat(unlike(number))) for number in range(5)]
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    assert import_examples(path, tmp_path / "out")["chats"] == 5


def test_a_bad_line_stops_the_import_before_anything_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "my.jsonl", [chat("a"), {"messages": []}, chat("b"), {}])
    with pytest.raises(DataError, match="has 2 faults") as caught:
        import_examples(path, tmp_path / "out")
    assert "line 2: messages is empty" in str(caught.value)
    assert "line 4: has no messages" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_where_it_came_from_is_on_record(tmp_path: Path) -> None:
    path = write(tmp_path / "my.jsonl", [chat("a")])
    import_examples(path, tmp_path / "out", licence="CC-BY-4.0")
    dataset = Dataset.open(tmp_path / "out")
    (document,) = dataset.documents()
    assert (document["source"], document["licence"]) == ("my.jsonl", "CC-BY-4.0")
    assert document["sha256"] in dataset.info["made_from"]
