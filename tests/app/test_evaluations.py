"""An evaluation as a run: measured once, resumed, reused, stopped, reported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bessemer.app import datasets, evaluations, jobs
from bessemer.app.models import NamedModel
from bessemer.app.platform import Platform
from bessemer.core.artifacts import Artifact
from bessemer.core.errors import EngineUnavailable, NotFound
from bessemer.core.principal import Principal
from bessemer.core.protocols import Engine
from bessemer.core.runs import RunFolder, StopRequested
from bessemer.evals.recipe import EvalRecipe
from bessemer.text.tokenizer import Tokenizer
from tests.evals.worlds import (
    VOCABULARY,
    UnigramEngine,
    symbol_chats,
    symbol_dataset,
    write_model_folder,
)

RECIPE = EvalRecipe(
    items=24, shots=3, unrelated_tokens=600, chunk_tokens=64, resamples=1000, in_flight=4
)


class Workshop:
    """Opens a fake engine by digest, and notes which were opened and which are open."""

    def __init__(self, engines: dict[str, UnigramEngine]) -> None:
        self.engines = engines
        self.opened: list[str] = []
        self.open: list[str] = []

    @contextlib.asynccontextmanager
    async def __call__(self, path: Path, digest: str, threads: int) -> AsyncIterator[Engine]:
        assert not self.open, "two engines at once"
        self.opened.append(digest)
        self.open.append(digest)
        try:
            yield self.engines[digest]
        finally:
            self.open.remove(digest)


class DyingEngine(UnigramEngine):
    """Dies at its `last`-th score."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    async def score(self, ids: Sequence[int]) -> list[float]:
        if len(self.scored) == self.last:
            raise EngineUnavailable("the engine died")
        return await super().score(ids)


@pytest.fixture
def base(tmp_path: Path) -> NamedModel:
    return named_model(tmp_path, "base")


@pytest.fixture
def taught(tmp_path: Path) -> NamedModel:
    return named_model(tmp_path, "taught")


@pytest.fixture
def dataset(tmp_path: Path) -> datasets.NamedDataset:
    folder = symbol_dataset(tmp_path / "symbols", symbol_chats(0, 30), symbol_chats(30, 60))
    artifact = Artifact("sha256:data", "dataset", "symbols", folder, 0)
    return datasets.NamedDataset("symbols", "sha256:data", folder, artifact)


@pytest.fixture
def workshop(base: NamedModel) -> Workshop:
    """The taught model finds the bytes of small letters likelier than the base does."""
    tokenizer = Tokenizer.load(base.path)
    letters = {id_: math.log(1 / 40) for id_ in tokenizer.encode("abcdefghijklmnopqrstuvwxyz")}
    engines = {
        "sha256:base": UnigramEngine(),
        "sha256:taught": UnigramEngine(letters, answer=Names(tokenizer)),
    }
    return Workshop(engines)


class Names:
    """Knows every name: "Return 31 times" is f031."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> list[int]:
        number = self.tokenizer.decode(ids).rpartition("Return ")[2].split()[0]
        return self.tokenizer.encode(f"f{int(number):03}")


def named_model(folder: Path, name: str) -> NamedModel:
    path = write_model_folder(folder / name)
    digest = f"sha256:{name}"
    return NamedModel(name, digest, path, Artifact(digest, "model", name, path, 0))


Submit = Callable[..., RunFolder]


@pytest.fixture
def submit(
    platform: Platform, owner: Principal, base: NamedModel, dataset: datasets.NamedDataset
) -> Iterator[Submit]:
    def submit(taught: NamedModel | None = None, **more: Any) -> RunFolder:
        return evaluations.submit_eval(
            platform, owner, base, taught, dataset, RECIPE, threads=1, **more
        )

    yield submit


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.read() if event["kind"] == kind]


def test_submitting_queues_a_run_that_says_everything(
    platform: Platform, owner: Principal, submit: Submit, taught: NamedModel
) -> None:
    run = submit(taught)
    plan = run.plan()
    assert [one["label"] for one in plan["candidates"]] == ["base", "taught"]
    assert (plan["kind"], plan["items"], plan["shots"], plan["threads"]) == ("eval", 24, 3, 1)
    assert "items = 24" in run.recipe.read_text()
    (row,) = jobs.list_runs(platform, owner)
    assert (row.kind, row.name, row.state) == ("eval", "taught-eval", "queued")


def test_the_report_says_that_the_taught_model_is_better(
    submit: Submit, taught: NamedModel, workshop: Workshop
) -> None:
    run = submit(taught)
    evaluations.evaluate(run, workshop)
    report = evaluations.read_report(run)
    assert report.sentences[0].startswith("Taught is better than base in held-out loss.")
    assert "Taught is better than base in names exactly right. 100.0% against 0.0%" in "".join(
        report.sentences
    )
    assert all("path" not in model for model in (*report.models, report.dataset))
    assert workshop.opened == ["sha256:base", "sha256:taught"]
    assert workshop.open == []


def test_events_tell_progress_up_to_each_total_and_every_value(
    submit: Submit, taught: NamedModel, workshop: Workshop
) -> None:
    run = submit(taught)
    evaluations.evaluate(run, workshop)
    last = {event["stage"]: event for event in events(run, "progress")}
    assert len(last) == 8
    assert all(event["done"] == event["total"] for event in last.values())
    (plan,) = events(run, "plan")
    assert sum(event["total"] for event in last.values()) == plan["questions"]
    measures = events(run, "measure")
    assert len(measures) == 5 * 1 + 3 * 2
    assert measures[0]["label"] == "base"
    assert (measures[0]["metric"], measures[0]["n"], measures[0]["of"]) == ("loss", 24, 24)
    assert not any(event["reused"] for event in measures)
    (result,) = events(run, "result")
    assert result["sentences"] == evaluations.read_report(run).sentences


def test_items_hold_what_was_asked_and_answered(submit: Submit, workshop: Workshop) -> None:
    run = submit()
    evaluations.evaluate(run, workshop)
    rows = [json.loads(line) for line in (run.output / "items.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["kind"] != "unrelated"]) == 24
    assert set(rows[0]["results"]) == {"base", "base with 3 examples"}


def test_a_later_run_reuses_what_the_earlier_one_measured_of_the_base(
    submit: Submit, taught: NamedModel, workshop: Workshop
) -> None:
    before = submit()
    evaluations.evaluate(before, workshop)
    after = submit(taught, reuse=before)
    evaluations.evaluate(after, workshop)
    assert workshop.opened == ["sha256:base", "sha256:taught"]
    reused = {event["label"] for event in events(after, "measure") if event["reused"]}
    assert reused == {"base", "base with 3 examples"}
    whole = submit(taught)
    evaluations.evaluate(whole, workshop)
    assert evaluations.read_report(whole).values == evaluations.read_report(after).values


def test_a_run_that_failed_goes_on_with_the_stages_that_are_left(
    submit: Submit, workshop: Workshop
) -> None:
    run = submit()
    # 24 answers, then 24 with examples, of which the engine does half.
    dying = DyingEngine(last=36)
    with pytest.raises(EngineUnavailable):
        evaluations.evaluate(run, Workshop({"sha256:base": dying}))
    with pytest.raises(NotFound, match=r"no result; .* of 24 questions"):
        evaluations.read_report(run)
    evaluations.evaluate(run, workshop)
    # The 24 with examples and the unrelated text; nothing of the first stage.
    chunks = next(e["n"] for e in events(run, "measure") if e["metric"] == "unrelated_loss")
    assert len(workshop.engines["sha256:base"].scored) == 24 + chunks
    assert evaluations.read_report(run).values[0].answered == 24


def test_a_finished_run_that_is_run_again_starts_no_engine(
    submit: Submit, workshop: Workshop
) -> None:
    run = submit()
    evaluations.evaluate(run, workshop)
    first = (run.output / "report.json").read_bytes()
    evaluations.evaluate(run, workshop)
    assert workshop.opened == ["sha256:base"]
    assert (run.output / "report.json").read_bytes() == first


def test_a_request_to_stop_ends_the_engine_and_leaves_no_result(submit: Submit) -> None:
    run = submit()
    asked = threading.Event()

    class Endless(UnigramEngine):
        async def score(self, ids: Sequence[int]) -> list[float]:
            asked.set()
            await asyncio.sleep(3600)
            raise AssertionError("unreachable")

    def interrupt() -> None:
        asked.wait()
        os.kill(os.getpid(), signal.SIGUSR1)  # as from outside: it reaches the main thread

    def stop(_signum: int, _frame: object) -> None:
        raise StopRequested

    workshop = Workshop({"sha256:base": Endless()})
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(StopRequested):
            evaluations.evaluate(run, workshop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert workshop.opened == ["sha256:base"]
    assert workshop.open == []
    assert not run.output.exists()


def test_an_engine_that_cannot_load_ends_the_run_with_its_reason(
    submit: Submit, tmp_path: Path
) -> None:
    run = submit()

    @contextlib.asynccontextmanager
    async def broken(path: Path, digest: str, threads: int) -> AsyncIterator[Engine]:
        raise EngineUnavailable("config.json is missing")
        yield UnigramEngine()

    with pytest.raises(EngineUnavailable, match=r"config\.json is missing"):
        evaluations.evaluate(run, broken)


def test_a_worker_that_cannot_load_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    def command(model: NamedModel, socket: Path, threads: int) -> list[str]:
        return [sys.executable, "-c", f"import sys; sys.exit('no weights in {model.name}')"]

    async def attempt() -> None:
        async with evaluations.open_engine(tmp_path / "nothing", "sha256:0", 1, command):
            raise AssertionError("it opened")

    with pytest.raises(EngineUnavailable, match="no weights in nothing"):
        asyncio.run(attempt())


@pytest.mark.slow
def test_a_real_worker_scores_a_model_whose_loss_is_known(submit: Submit, base: NamedModel) -> None:
    """With all weights zero every token is as likely as any other."""
    import torch
    from safetensors.torch import save_file

    from bessemer.models.config import ModelConfig
    from bessemer.models.decoder import Decoder

    with torch.device("meta"):
        shapes = Decoder(ModelConfig.from_folder(base.path)).state_dict()
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
    save_file(zeros, base.path / "model.safetensors")
    run = submit()
    evaluations.evaluate(run)
    losses = [value for value in evaluations.read_report(run).values if "loss" in value.metric]
    assert [value.value for value in losses] == pytest.approx([math.log(VOCABULARY)] * 3, rel=1e-3)
    assert [(value.answered, value.asked) for value in losses[:2]] == [(24, 24)] * 2
