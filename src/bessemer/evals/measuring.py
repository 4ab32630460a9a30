"""One model, one set of questions: a measurement that is kept and can be used again.

A measurement's key is a hash of the model's digest and of every token id it is asked, so a kept
one stands in for a new one exactly when it would ask the same bytes of the same model: after an
interruption, or for a base model that an earlier run measured. Only whole measurements are kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from bessemer.core.digests import canonical_json, sha256_bytes
from bessemer.core.protocols import Engine
from bessemer.core.runs import write_atomically
from bessemer.evals.asking import Failure, OnProgress, ignore_progress
from bessemer.evals.likelihood import Likelihood, Passage, score_passages
from bessemer.evals.metrics import Row, Stage
from bessemer.evals.naming import Naming, Question, answer_questions
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

# Raise it when the same questions would be measured differently.
_METHOD = 1


@dataclass(frozen=True)
class Subject:
    """A model to be asked: what a report calls it, which bytes it is, how it reads a chat."""

    label: str
    digest: str
    tokenizer: Tokenizer
    template: ChatTemplate

    @classmethod
    def load(cls, label: str, digest: str, folder: Path) -> Subject:
        """Its tokenizer and template, from a Hugging Face folder."""
        return cls(label, digest, Tokenizer.load(folder), ChatTemplate.load(folder))


@dataclass(frozen=True, eq=False)
class Task:
    """One stage to measure on one subject. `shots` is how many examples come first."""

    subject: Subject
    stage: Stage
    shots: int
    questions: Sequence[Passage] | Sequence[Question]
    alone: Sequence[int]
    answer_tokens: int = 0

    @cached_property
    def key(self) -> str:
        """What makes two measurements the same."""
        asked = {
            "method": _METHOD,
            "model": self.subject.digest,
            "stage": self.stage,
            "questions": [list(question) for question in self.questions],
            "answer_tokens": self.answer_tokens,
        }
        return sha256_bytes(canonical_json(asked))

    def __str__(self) -> str:
        return f"{describe_model(self.subject.label, self.shots)}: {self.stage}"


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer of one task. `rows` and `failures` together are all that was asked."""

    key: str
    model: str
    stage: Stage
    shots: int
    rows: list[Likelihood | Naming]
    failures: list[Failure]
    precision: str
    wall_s: float

    @property
    def asked(self) -> int:
        return len(self.rows) + len(self.failures)

    def by_item(self) -> dict[str, Row]:
        return {row.item: row for row in self.rows}


def describe_model(label: str, shots: int) -> str:
    """
    >>> describe_model("base", 6), describe_model("taught", 0)
    ('base with 6 examples', 'taught')
    """
    return f"{label} with {shots} examples" if shots else label


async def measure(
    engine: Engine, task: Task, *, in_flight: int, on_progress: OnProgress = ignore_progress
) -> Measurement:
    """Ask everything. An error, or being cancelled, leaves no measurement."""
    started_s = time.monotonic()
    ask: dict[str, Any] = {
        "in_flight": in_flight, "alone": task.alone, "on_progress": on_progress,
    }  # fmt: skip
    if task.stage == "names":
        asked: Any = await answer_questions(
            engine,
            task.questions,  # type: ignore[arg-type]
            task.subject.tokenizer,
            answer_tokens=task.answer_tokens,
            **ask,
        )
    else:
        asked = await score_passages(engine, task.questions, **ask)  # type: ignore[arg-type]
    return Measurement(
        key=task.key,
        model=task.subject.digest,
        stage=task.stage,
        shots=task.shots,
        rows=asked.answers,
        failures=asked.failures,
        precision=(await engine.info()).precision,
        wall_s=round(time.monotonic() - started_s, 3),
    )


class MeasurementFolder:
    """Whole measurements as files; `earlier` folders are read and never written."""

    def __init__(self, folder: Path, earlier: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._places = (folder, *earlier)

    def find(self, task: Task) -> Measurement | None:
        """The kept measurement of exactly this task."""
        name = _file_name(task.key)
        for place in self._places:
            if (place / name).is_file():
                return msgspec.json.decode((place / name).read_bytes(), type=Measurement)
        return None

    def keep(self, measurement: Measurement) -> None:
        data = msgspec.json.encode(measurement)
        write_atomically(self._folder / _file_name(measurement.key), data)


def _file_name(key: str) -> str:
    return f"measurement-{key[:32]}.json"
