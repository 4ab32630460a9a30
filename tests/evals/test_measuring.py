"""A measurement is whole, is kept, and stands in only for exactly the same questions."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bessemer.data.corpus import Document
from bessemer.data.dataset import Dataset
from bessemer.evals.comparing import Measured, values_of
from bessemer.evals.exam import Exam, set_exam
from bessemer.evals.measuring import Measurement, MeasurementFolder, Subject, Task, measure
from bessemer.evals.recipe import EvalRecipe
from bessemer.evals.report import item_rows
from tests.evals.worlds import (
    VOCABULARY,
    UnigramEngine,
    symbol_chats,
    symbol_dataset,
    write_model_folder,
)

RECIPE = EvalRecipe(items=20, shots=3, unrelated_tokens=500, chunk_tokens=64)
TOPICS = [Document(f"topics/{n}", f"All about number {n}. " * 20, "PSF-2.0") for n in range(8)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = symbol_dataset(tmp_path / "data", symbol_chats(0, 30), symbol_chats(30, 60))
    return Dataset.open(folder)


@pytest.fixture
def subjects(tmp_path: Path) -> list[Subject]:
    folder = write_model_folder(tmp_path / "model")
    return [Subject.load(label, f"sha256:{label}", folder) for label in ("base", "taught")]


@pytest.fixture
def exam(dataset: Dataset, subjects: list[Subject]) -> Exam:
    return set_exam(subjects, dataset, TOPICS, RECIPE, context_length=8192)


def run(task: Task, engine: UnigramEngine) -> Measurement:
    return asyncio.run(measure(engine, task, in_flight=4))


def test_only_the_base_is_shown_examples(exam: Exam) -> None:
    stages = [[(task.stage, task.shots) for task in tasks] for tasks in exam.tasks]
    assert stages == [
        [("answers", 0), ("names", 0), ("answers", 3), ("names", 3), ("unrelated", 0)],
        [("answers", 0), ("names", 0), ("unrelated", 0)],
    ]


def test_both_models_are_asked_the_same_items(exam: Exam) -> None:
    base, taught = exam.tasks
    assert [question.item for question in base[0].questions] == [item.id for item in exam.items]
    assert base[0].questions == taught[0].questions
    assert base[1].questions == taught[1].questions
    assert base[-1].questions == taught[-1].questions


def test_without_unrelated_text_or_examples_there_are_no_such_stages(
    dataset: Dataset, subjects: list[Subject]
) -> None:
    recipe = EvalRecipe(items=20, shots=0)
    exam = set_exam(subjects, dataset, [], recipe, context_length=8192)
    assert [[task.stage for task in tasks] for tasks in exam.tasks] == [["answers", "names"]] * 2


def test_unrelated_chunks_fit_the_shortest_context(
    dataset: Dataset, subjects: list[Subject]
) -> None:
    exam = set_exam(subjects, dataset, TOPICS, RECIPE, context_length=32)
    assert max(len(question.ids) for question in exam.tasks[0][-1].questions) == 32


def test_the_first_item_of_each_kind_goes_ahead_of_the_others_with_examples(exam: Exam) -> None:
    plain, shown = exam.tasks[0][0], exam.tasks[0][2]
    assert list(plain.alone) == []
    assert [exam.items[index].kind for index in shown.alone] == ["describe", "name"]
    engine = UnigramEngine()
    run(shown, engine)
    assert engine.scored[:2] == [list(shown.questions[index].ids) for index in shown.alone]


def test_loss_of_a_uniform_model_is_the_log_of_its_vocabulary(exam: Exam) -> None:
    for task in exam.tasks[0]:
        if task.stage != "names":
            (value,) = values_of(Measured("base", run(task, UnigramEngine())))
            assert value.value == pytest.approx(math.log(VOCABULARY))


def test_the_key_changes_with_the_model_and_with_every_question(
    exam: Exam, dataset: Dataset, subjects: list[Subject]
) -> None:
    task = exam.tasks[0][0]
    again = set_exam(subjects, dataset, TOPICS, RECIPE, context_length=8192).tasks[0][0]
    assert again.key == task.key
    other_model = exam.tasks[1][0]
    fewer = replace(task, questions=task.questions[:-1])
    shown = exam.tasks[0][2]
    longer = replace(exam.tasks[0][1], answer_tokens=99)
    keys = {one.key for one in (task, other_model, fewer, shown, longer, exam.tasks[0][1])}
    assert len(keys) == 6


def test_a_label_is_no_part_of_the_key(exam: Exam) -> None:
    task = exam.tasks[0][0]
    renamed = replace(task, subject=replace(task.subject, label="the first one"))
    assert renamed.key == task.key


def test_a_kept_measurement_is_found_again_also_from_an_earlier_folder(
    exam: Exam, tmp_path: Path
) -> None:
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir()
    later.mkdir()
    answers, names = exam.tasks[0][:2]
    found = [run(task, UnigramEngine()) for task in (answers, names)]
    for measurement in found:
        MeasurementFolder(earlier).keep(measurement)
    kept = MeasurementFolder(later, [earlier])
    assert [kept.find(answers), kept.find(names)] == found
    assert kept.find(exam.tasks[1][0]) is None
    assert MeasurementFolder(later).find(answers) is None
    assert list(later.iterdir()) == []


def test_what_does_not_fit_is_part_of_the_measurement_and_of_the_rows(exam: Exam) -> None:
    task = exam.tasks[0][0]
    lengths = sorted(len(question.ids) for question in task.questions)
    engine = UnigramEngine(context_length=lengths[-3])
    measurement = run(task, engine)
    assert measurement.asked == 20
    assert len(measurement.failures) == sum(length > lengths[-3] for length in lengths) > 0
    rows = list(item_rows(exam.items, [Measured("base", measurement)]))
    errors = [row for row in rows if "error" in row["results"]["base"]]
    assert {row["item"] for row in errors} == {failure.item for failure in measurement.failures}


def test_rows_are_enough_to_compute_the_value_again(exam: Exam) -> None:
    measured = [Measured("base", run(task, UnigramEngine())) for task in exam.tasks[0]]
    rows = list(item_rows(exam.items, measured))
    shown = [row["results"].get("base with 3 examples", {}) for row in rows]
    nats = sum(result["nll_nats"] for result in shown if "nll_nats" in result)
    tokens = sum(result["tokens"] for result in shown if "tokens" in result)
    (value,) = values_of(measured[2])
    assert nats / tokens == pytest.approx(value.value)
    assert {row["kind"] for row in rows} == {"describe", "name", "unrelated"}
    names = [row for row in rows if row["kind"] == "name"]
    assert all("answer" in row["results"]["base"] for row in names)
    assert all(row["asked"][-1]["role"] == "user" and row["expected"] for row in names)
