"""What is served is what was trained: the check finds agreement, and disagreement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bessemer.app.checking import BOUNDS, Gap, check_logprobs
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.inference.probing import probe
from bessemer.train.scoring import trainer_logprobs
from tests.train.tiny import make_model, questions

TEXT = "\n".join(chat["messages"][0]["content"] for chat in questions(40))


def test_trainer_prefill_and_decode_agree_on_every_token(
    platform: Platform, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "model")
    torch.set_num_threads(1)
    gaps = list(
        check_logprobs(
            platform, platform.local_principal(), str(model), text=TEXT, prompts=3, tokens=7
        )
    )
    assert [gap.precision for gap in gaps] == ["fp32"] * 3 + ["bf16"] * 3
    assert all(gap.within_bound for gap in gaps), gaps
    assert all(gap.largest_nats < 1e-4 for gap in gaps[:3])
    assert gaps[1].tokens == gaps[2].tokens <= 21
    assert gaps[0].tokens == 3 * 47 + gaps[1].tokens
    for gap in gaps:
        assert gap.perplexities[0] == pytest.approx(gap.perplexities[1], rel=0.05)


def test_another_model_in_the_trainer_would_be_noticed(tmp_path: Path) -> None:
    served, trained = make_model(tmp_path / "served"), make_model(tmp_path / "trained", layers=1)
    (found,) = probe(served, [list(range(5, 40))], 4, "fp32")
    (same,) = trainer_logprobs(served, [found.ids], "fp32")
    (other,) = trainer_logprobs(trained, [found.ids], "fp32")
    assert max(abs(a - b) for a, b in zip(same, found.read, strict=True)) < 1e-4
    assert max(abs(a - b) for a, b in zip(other, found.read, strict=True)) > 0.1


def test_a_gap_beyond_its_bound_is_said() -> None:
    assert Gap("fp32", "a and b", 1, BOUNDS["fp32"], 1.0, (1.0, 1.0)).within_bound
    assert not Gap("fp32", "a and b", 1, 2 * BOUNDS["fp32"], 1.0, (1.0, 1.0)).within_bound


def test_too_short_a_text_is_refused_with_the_numbers(platform: Platform, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(InvalidInput, match="4 prompts of 48 need 192"):
        list(check_logprobs(platform, platform.local_principal(), str(model), text="short"))
