"""Distillation: the student's next-token distribution moves toward a teacher's.

    forward   KL(p, q) = sum over tokens of p ln(p / q)      covers all that the teacher would say
    reverse   KL(q, p) = sum over tokens of q ln(q / p)      keeps to what the teacher would say
    loss      (1 - data_weight) T^2 KL + data_weight (-ln q(data))        mean nats per target

p is the teacher, q the student, both softened by the temperature T; T^2 keeps the gradient's size
(Hinton et al., 2015). Reverse KL for language models: Gu et al. (2023), "MiniLLM"; here token by
token on the data's own text. Only the teacher's K likeliest tokens are known (`teacher`); all
others are one sum in p and in q, so the divergence is a lower bound of the whole one, and the whole
one where K is the vocabulary.

With `distill.signal = "text"` the teacher answers the chats' prompts instead (`data.dictation`),
and the student is fine-tuned on its answers.

    C targets of one chunk   K tokens kept   V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Engine
from bessemer.core.train_sections import DistillSection
from bessemer.data.dictation import ask
from bessemer.data.material import Material, chat_material, material_of
from bessemer.data.packing import Row
from bessemer.models.folder import load_decoder
from bessemer.models.foreign import open_decoder
from bessemer.text.tokenizer import Tokenizer
from bessemer.train.batch import MicroBatch
from bessemer.train.loss import CHUNK_ELEMENTS, LossSum, Mean
from bessemer.train.objectives.language import LanguageTask
from bessemer.train.task import Network, Setting, Task, hidden_states
from bessemer.train.teacher import Teacher

Direction = Literal["forward", "reverse"]
IDS, LOGPROBS = "teacher_ids", "teacher_logprobs"


class DistillationTask:
    """Rows of chats, with what the teacher would say at each target."""

    def __init__(self, material: Material, teacher: Teacher, settings: DistillSection) -> None:
        self.name, self.measure = "distill", "kl"
        self.tokenizer: Tokenizer = material.tokenizer
        self.prompt: Sequence[int] = material.prompt
        self.digest: str = material.digest
        self.facts: Mapping[str, Any] = {**material.facts, "teacher_top_k": teacher.top_k}
        self._material, self._teacher, self._settings = material, teacher, settings

    def rows(self, positions: Sequence[int]) -> list[Row]:
        return [self._taught(self._material.train.row(position)) for position in positions]

    def validation(self) -> list[Row]:
        return [self._taught(row) for row in self._material.validation]

    def weight(self, batch: MicroBatch) -> float:
        return batch.targets

    def loss(self, network: Network, batch: MicroBatch) -> LossSum:
        settings = self._settings
        kl, nats = divergence(
            hidden_states(network, batch)[batch.sources_N],
            network.head_weight,
            batch.targets_N,
            batch.columns[IDS].long(),
            batch.columns[LOGPROBS],
            direction=settings.direction,
            temperature=settings.temperature,
            vocabulary=self._teacher.vocabulary,
        )
        share = settings.data_weight
        total = (1 - share) * settings.temperature**2 * kl + share * nats
        told = {"kl": Mean(kl.item(), batch.targets), "data_loss": Mean(nats.item(), batch.targets)}
        return LossSum(total, batch.targets, told)

    def _taught(self, row: Row) -> Row:
        said = self._teacher.likeliest(row)
        return row._replace(columns={IDS: said.ids, LOGPROBS: said.logprobs})


def divergence(
    hidden_ND: Tensor,
    head_VD: Tensor,
    targets_N: Tensor,
    ids_NK: Tensor,
    logprobs_NK: Tensor,
    *,
    direction: Direction,
    temperature: float,
    vocabulary: int | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Sums over targets of the divergence and of -ln q(target), in nats.

    The student's logits exist for one chunk at a time, and are computed again going backward.

    Args:
        ids_NK, logprobs_NK: the teacher's likeliest tokens, at this temperature.
        vocabulary: how many of the head's rows are tokens; by default all.
    """
    rows = max(1, chunk_elements // len(head_VD))
    head_VD = head_VD[:vocabulary]
    parts = zip(
        *(torch.split(x, rows) for x in (hidden_ND, targets_N, ids_NK, logprobs_NK)), strict=True
    )
    sums = [
        checkpoint(
            _divergence, hidden_CD, head_VD, target_C, ids_CK, logprobs_CK, direction, temperature,
            use_reentrant=False, preserve_rng_state=False,
        )
        for hidden_CD, target_C, ids_CK, logprobs_CK in parts
    ]  # fmt: skip
    kl, nats = (torch.stack(each).sum() for each in zip(*sums, strict=True))
    return kl, nats


def _divergence(
    hidden_CD: Tensor, head_VD: Tensor, target_C: Tensor, ids_CK: Tensor, logp_CK: Tensor,
    direction: Direction, temperature: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    wide = torch.promote_types(hidden_CD.dtype, torch.float32)
    logits_CV = (hidden_CD @ head_VD.T).to(wide)
    nats = logits_CV.logsumexp(1).sum() - logits_CV.gather(1, target_C[:, None]).sum()
    logq_CV = (logits_CV / temperature).log_softmax(1)
    logp_CK, logq_CK = logp_CK.to(wide), logq_CV.gather(1, ids_CK)
    kl = _one_way(logp_CK, logq_CK, direction).sum()
    if ids_CK.shape[1] < len(head_VD):
        # Everything else as one token. Its share is summed, not subtracted from one.
        rest_q_C = logq_CV.scatter(1, ids_CK, -torch.inf).logsumexp(1)
        rest_p_C = torch.log1p(-logp_CK.exp().sum(1).clamp(max=1 - 1e-7))
        kl = kl + _one_way(rest_p_C, rest_q_C, direction).sum()
    return kl, nats


def _one_way(logp: Tensor, logq: Tensor, direction: Direction) -> Tensor:
    if direction == "forward":
        return logp.exp() * (logp - logq)
    return logq.exp() * (logq - logp)


def open_distill(setting: Setting, network: nn.Module) -> Task:
    """Learn what the recipe's teacher says about the chats of a dataset.

    Raises:
        InvalidInput: teacher and student do not share a vocabulary, and its logits are asked for;
            or its text is, and it cannot speak.
    """
    settings = setting.recipe.distill
    assert settings is not None, "the recipe was checked"
    if settings.signal == "text":
        return _open_text(setting, network)
    folder = setting.model_path(settings.teacher)
    _check_vocabulary(setting.tokenizer, Tokenizer.load(folder), settings.teacher)
    head_VD = network.head_weight
    assert isinstance(head_VD, Tensor)
    teacher = Teacher(
        open_decoder(folder, head_VD.dtype),
        setting.plan["models"][settings.teacher]["digest"],
        setting.folder / "teacher",
        top_k=settings.top_k,
        temperature=settings.temperature,
        vocabulary=len(head_VD),
    )
    material = chat_material(setting.recipe, setting.dataset_path(), setting.model_path())
    return DistillationTask(material, teacher, settings)


def _open_text(setting: Setting, network: nn.Module) -> LanguageTask:
    """Fine-tuning on the teacher's answers, written before the first step."""
    recipe = setting.recipe
    answered = ask(
        recipe, setting.plan, setting.folder, setting.tell, lambda: _engine(setting, network)
    )
    chats = {split: found.chats for split, found in answered.items()}
    material = material_of(recipe, chats, setting.model_path())
    left_out = sum(found.left_out for found in answered.values())
    facts = {**material.facts, "answers_left_out": left_out}
    return LanguageTask("distill", replace(material, facts=facts))


def _engine(setting: Setting, student: nn.Module) -> Engine:
    """An engine over the teacher, which computes in the student's precision."""
    settings, head_VD = setting.recipe.distill, student.head_weight
    assert settings is not None and isinstance(head_VD, Tensor)
    if setting.engine_of is None:
        raise InvalidInput(
            "a teacher's text comes from an engine, and this run was started without one",
            next_step='start it with `bessemer train`, or set distill.signal = "logits"',
        )
    teacher = load_decoder(setting.model_path(settings.teacher), head_VD.dtype)
    return setting.engine_of(teacher.eval().requires_grad_(False))


def _check_vocabulary(student: Tokenizer, teacher: Tokenizer, name: str) -> None:
    sizes = student.vocab_size, teacher.vocab_size
    differ = sizes[0] != sizes[1]
    wrong = next(
        (i for i in range(min(sizes)) if student.token_bytes(i) != teacher.token_bytes(i)), None
    )
    if differ or wrong is not None:
        where = f"; token {wrong} differs" if wrong is not None else ""
        raise InvalidInput(
            f"student and teacher need the same tokens: they have {sizes[0]} and {sizes[1]}{where}",
            next_step=f"let {name} write answers, and teach those: --set distill.signal=text",
        )
