"""What a teacher answers to the prompts of chats: asked once, kept as text in the run's folder.

A prompt is everything before the last answer of a chat. Chats are asked about in an order of the
run's own, validation first, in pieces of as many as an engine takes at once; a piece is one file,
written as a whole, so a run that was killed asks again about one piece at most. No more are asked
than the run's steps can hold; where only `minutes` are known, for at most half of that time.

Text crosses: teacher and student each have their own tokenizer and template. An answer that was
cut off, or that is empty, is not taught.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bessemer.core.progress import Progress
from bessemer.core.protocols import Engine, GenerateRequest, Sampling
from bessemer.core.runs import write_atomically
from bessemer.core.train_recipe import MEASURED_STEPS, TrainRecipe
from bessemer.data.chats import Chat, as_context
from bessemer.data.corpus import Split
from bessemer.data.dataset import Dataset
from bessemer.data.order import Order
from bessemer.text.chat_encoding import encode_chat, encode_prompt
from bessemer.text.chat_template import ChatTemplate
from bessemer.text.tokenizer import Tokenizer

PIECE = 32
SPLITS: tuple[Split, ...] = ("validation", "train")
FINISHED = "finished"


class Answer(NamedTuple):
    """`line` is the chat of its split, from 0; `text` None if there is nothing to teach."""

    line: int
    text: str | None


class Answered(NamedTuple):
    """Chats whose last answer is the teacher's, and which line of its split each is, from 0."""

    chats: list[Chat]
    lines: list[int]
    left_out: int


def answers_folder(folder: Path, recipe: TrainRecipe, plan: Mapping[str, Any]) -> Path:
    """Where a run keeps them; those of another teacher, dataset, seed or wish are elsewhere."""
    settings = recipe.distill
    assert settings is not None, "the recipe was checked"
    facts = [
        plan["models"][settings.teacher]["digest"],
        plan["datasets"][recipe.dataset.name]["digest"],
        recipe.seed,
        settings.answer_tokens,
        settings.answer_temperature,
    ]
    return folder / f"answers-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"


def read_answered(folder: Path, split: Split, chats: Sequence[Chat]) -> Answered:
    """What `folder` holds about the chats of a split."""
    pieces = sorted(folder.glob(f"{split}-*.jsonl"))
    answers = [answer for piece in pieces for answer in _read(piece) or ()]
    kept = [(line, text) for line, text in answers if text is not None]
    taught = [_with_answer(chats[line], text) for line, text in kept]
    return Answered(taught, [line for line, _ in kept], len(answers) - len(kept))


def ask(
    recipe: TrainRecipe,
    plan: Mapping[str, Any],
    folder: Path,
    tell: Callable[..., Any],
    open_engine: Callable[[], Engine],
) -> dict[Split, Answered]:
    """As many chats of the recipe's dataset as the run can use, with the teacher's answers.

    Args:
        plan, folder: the run's own.
        tell: writes an event.
        open_engine: opens an engine over the teacher; called if there is anything to ask.
    """
    kept = answers_folder(folder, recipe, plan)
    dataset = Dataset.open(Path(plan["datasets"][recipe.dataset.name]["path"]))
    chats = {split: dataset.split(split) for split in SPLITS}
    if not (kept / FINISHED).exists():
        kept.mkdir(exist_ok=True)
        _ask_all(recipe, _Speaker(recipe, plan, open_engine()), kept, chats, tell)
        write_atomically(kept / FINISHED, b"")
    return {split: read_answered(kept, split, chats[split]) for split in SPLITS}


def _ask_all(
    recipe: TrainRecipe,
    speaker: _Speaker,
    folder: Path,
    chats: Mapping[Split, Sequence[Chat]],
    tell: Callable[..., Any],
) -> None:
    row, step, limit_s = recipe.batch.sequence_length, recipe.tokens_per_step, recipe.pass_limit_s
    wanted = {"validation": recipe.evaluation.rows * row, "train": (recipe.steps or 10**9) * step}
    progress = Progress(tell, "answers", "chats", 0, limit_s=limit_s)
    asked = 0
    for split in SPLITS:
        order = Order(
            max(1, len(chats[split])), recipe.seed, purpose="answers", shuffle=split == "train"
        )
        begin_s, tokens = time.monotonic(), 0
        for first in range(0, len(chats[split]), PIECE):
            lines = [order.at(i).item for i in range(first, min(first + PIECE, order.count))]
            found = _piece(speaker, folder / f"{split}-{first:08d}.jsonl", split, lines, chats)
            tokens += sum(speaker.taught_tokens(chats[split][a.line], a.text) for a in found)
            asked, done = asked + len(lines), first + len(lines)
            still = min(order.count - done, done * (wanted[split] - tokens) // max(1, tokens))
            progress.total = asked + max(0, still)
            progress.judged = progress.total if split == "validation" else progress.judged
            progress.tell(asked)
            late = time.monotonic() - begin_s > limit_s and tokens >= MEASURED_STEPS * step
            if tokens >= wanted[split] or (late and split == "train"):
                break
    progress.end()


def _piece(
    speaker: _Speaker,
    path: Path,
    split: Split,
    lines: Sequence[int],
    chats: Mapping[Split, Sequence[Chat]],
) -> list[Answer]:
    """What the file says, or the teacher now."""
    found = _read(path) if path.exists() else None
    if found is None:
        found = speaker.answer(split, {line: chats[split][line] for line in lines})
        write_atomically(path, "".join(json.dumps(answer) + "\n" for answer in found).encode())
    return found


def _read(path: Path) -> list[Answer] | None:
    try:
        return [Answer(*json.loads(line)) for line in path.read_text().splitlines()]
    except (ValueError, TypeError):
        return None


class _Speaker:
    """The teacher with its engine, and the student's way of writing what it says."""

    def __init__(self, recipe: TrainRecipe, plan: Mapping[str, Any], engine: Engine) -> None:
        assert recipe.distill is not None
        self._settings, self._seed = recipe.distill, recipe.seed
        self._longest, self._engine = recipe.batch.sequence_length, engine
        teacher = Path(plan["models"][recipe.distill.teacher]["path"])
        student = Path(plan["model"]["path"])
        self._tokenizer, self._template = Tokenizer.load(teacher), ChatTemplate.load(teacher)
        self._student = Tokenizer.load(student), ChatTemplate.load(student)

    def answer(self, split: Split, chats: Mapping[int, Chat]) -> list[Answer]:
        """To the chats of a split by their lines, all at once."""

        async def all_of_them() -> list[Answer]:
            context = (await self._engine.info()).context_length
            asked = (self._say(f"{split}-{line}", line, c, context) for line, c in chats.items())
            return list(await asyncio.gather(*asked))

        return asyncio.run(all_of_them())

    def taught_tokens(self, chat: Chat, text: str | None) -> int:
        """Of a row that the chat takes with this answer; 0 if it is not taught."""
        if text is None:
            return 0
        ids = encode_chat(_with_answer(chat, text).messages, *self._student).ids
        return len(ids) if len(ids) <= self._longest else 0

    async def _say(self, name: str, line: int, chat: Chat, context_length: int) -> Answer:
        before = _prompt(chat)
        if not before:
            return Answer(line, None)
        prompt = encode_prompt(before, self._tokenizer, self._template, chat.tools)
        room = min(self._settings.answer_tokens, context_length - len(prompt))
        if room < 1:
            return Answer(line, None)
        request = GenerateRequest(
            request_id=name,
            prompt_ids=prompt,
            max_tokens=room,
            sampling=Sampling(
                temperature=self._settings.answer_temperature, seed=self._seed + line
            ),
            stop_ids=sorted(self._tokenizer.eos_ids),
        )
        ids: list[int] = []
        async for chunk in self._engine.generate(request):
            ids += chunk.ids
        text = self._tokenizer.decode(ids).strip()
        return Answer(line, text if text and chunk.finish_reason == "stop" else None)


def _prompt(chat: Chat) -> list[dict[str, Any]]:
    """What stands before the last answer; nothing if there is none, or it comes first."""
    last = max((i for i, m in enumerate(chat.messages) if m["role"] == "assistant"), default=0)
    return chat.messages[:last]


def _with_answer(chat: Chat, text: str) -> Chat:
    # Earlier answers are the dataset's: what the teacher saw, and nothing to learn.
    before = as_context(_prompt(chat))
    return Chat(
        [*before, {"role": "assistant", "content": text}], chat.kind, chat.symbol, chat.tools
    )
