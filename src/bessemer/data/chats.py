"""Chats to learn from or be scored on, and reading them from OpenAI's fine-tuning JSONL.

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

`check_file` is for people: it goes through the whole file and lists the faults. `read_chats` is
for programs: it stops at the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.errors import DataError
from bessemer.data.chat_rules import faults_of
from bessemer.data.jsonl import Line, read_lines

Message = dict[str, Any]
MOST_FAULTS = 20


@dataclass(frozen=True)
class Chat:
    """One example.

    `messages` are OpenAI's, with every content a string. `kind` and `symbol` say what it asks
    and about what, where a dataset knows it; `tools` are those the answers may call.
    """

    messages: list[Message]
    kind: str | None = None
    symbol: str | None = None
    tools: list[Message] | None = None

    def as_line(self) -> dict[str, Any]:
        """The example as OpenAI's format has it, without what only Bessemer knows."""
        return {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})


class Fault(NamedTuple):
    """What is wrong in a line; lines count from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class Report:
    """What `check_file` found. `faults` holds the first 20, `more_faults` counts the rest.

    `answers` are the assistant messages that would be learned from.
    """

    path: Path
    chats: int = 0
    messages: int = 0
    answers: int = 0
    faults: list[Fault] = field(default_factory=list)
    more_faults: int = 0

    def raise_faults(self) -> None:
        """Raises DataError with every listed fault; nothing when the file is good."""
        if not self.faults:
            return
        listed = "\n".join(f"  {fault}" for fault in self.faults)
        more = f"\n  and {self.more_faults:,} more" if self.more_faults else ""
        raise DataError(
            f"{self.path.name} has {len(self.faults) + self.more_faults:,} faults:\n{listed}{more}",
            next_step="repair the lines named and import again; nothing was imported",
            faults=[fault._asdict() for fault in self.faults],
        )


def iterate_chats(path: Path) -> Iterator[Chat]:
    """The chats of a file, one in memory at a time.

    Raises:
        DataError: at the first line with a fault, or at the end when there was no chat.
    """
    line = None
    for line in read_lines(path):
        faults = _faults(line)
        if faults:
            raise DataError(
                faults[0],
                line=line.number,
                next_step=f"bessemer data check {path.name} lists all the faults",
            )
        yield chat_of(line.value)
    if line is None:
        raise _empty(path)


def read_chats(path: Path) -> list[Chat]:
    """All the chats of a file; raises DataError as `iterate_chats` does."""
    return list(iterate_chats(path))


def check_file(path: Path) -> Report:
    """Go through a whole file and count what is good and what is not.

    Raises:
        DataError: the file cannot be read at all, or holds no line.
    """
    chats = messages = answers = more = 0
    faults: list[Fault] = []
    line = None
    for line in read_lines(path):
        found = [Fault(line.number, message) for message in _faults(line)]
        room = MOST_FAULTS - len(faults)
        faults += found[:room]
        more += len(found[room:])
        if not found:
            chats += 1
            messages += len(line.value["messages"])
            answers += sum(map(_is_answer, line.value["messages"]))
    if line is None:
        raise _empty(path)
    return Report(path, chats, messages, answers, faults, more)


def chat_of(example: dict[str, Any]) -> Chat:
    """A checked line as a Chat: text parts joined, refusals as what was said, nulls left out."""
    messages = [_plain(message) for message in example["messages"]]
    return Chat(messages, tools=example.get("tools") or None)


def _plain(message: Message) -> Message:
    plain = {key: value for key, value in message.items() if value is not None}
    content = plain.get("content")
    if isinstance(content, list):
        plain["content"] = "".join(part[part["type"]] for part in content)
    refusal = plain.pop("refusal", None)
    plain["content"] = plain.get("content") or refusal or ""
    return plain


def _is_answer(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def _faults(line: Line) -> list[str]:
    return [line.fault] if line.fault is not None else faults_of(line.value)


def _empty(path: Path) -> DataError:
    return DataError(
        f"{path.name} holds no chats",
        next_step='write one {"messages": [...]} object a line, with an assistant message in each',
    )
