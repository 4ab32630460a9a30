"""Testing criteria as OpenAI's evals and graders spell them: what is judged, and when it passes.

    criterion = msgspec.json.decode(body, type=Criterion)
    check(criterion)                       # InvalidInput, naming the field
    places_of(criterion)                   # the {{paths}} that it reads

What they say of an answer is `criterion_checks`, and of models that judge, `app`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bessemer.core.errors import InvalidInput
from bessemer.core.protocols import Message
from bessemer.text.placeholders import NAMESPACES, Place, Placeholders

# As in OpenAI's API.
MAX_SOURCE_CHARS = 256 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=500)]
Labels = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1000)]
Similarity = Literal[
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor",
    "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
]  # fmt: skip


class Part(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One part of a message. Only text is understood."""

    type: str
    text: str | UnsetType = UNSET
    image_url: Any = UNSET
    detail: Any = UNSET
    input_audio: Any = UNSET
    prompt_cache_breakpoint: Any = UNSET  # no prompt shows it


class EvalMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A message with placeholders; its content is one text part once it was `normal`."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | Part | list[str | Part]
    type: Literal["message"] = "message"
    # What an assistant's message was for, which no prompt shows either.
    phase: Literal["commentary", "final_answer"] | UnsetType | None = UNSET

    def normal(self, place: str) -> EvalMessage:
        """The same with its text in one part, as OpenAI answers it.

        Raises:
            InvalidInput: a part is no text.
        """
        parts = self.content if isinstance(self.content, list) else [self.content]
        text = "".join(_text(part, place) for part in parts)
        kind = next((part.type for part in parts if isinstance(part, Part)), "text")
        if kind == "text":  # what chats call it
            kind = "input_text"
        return EvalMessage(self.role, Part(kind, text))

    @property
    def text(self) -> str:
        assert isinstance(self.content, Part), "normal() comes first"
        return cast(str, self.content.text)


class _Criterion(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    name: Name


class StringCheck(_Criterion, tag="string_check", kw_only=True):
    """`like` and `ilike` ask whether the reference is in the input, `ilike` whatever its case."""

    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]


class TextSimilarity(_Criterion, tag="text_similarity", kw_only=True):
    """Passes from `pass_threshold` on. `embedding_model` (ours) makes the vectors of `cosine`."""

    input: str
    reference: str
    evaluation_metric: Similarity
    pass_threshold: float
    embedding_model: str | None = None


class PythonCheck(_Criterion, tag="python", kw_only=True):
    """`grade(sample, item)` of `source` gives a number; `image_tag` is kept and changes nothing."""

    source: Annotated[str, Meta(max_length=MAX_SOURCE_CHARS)]
    image_tag: str | None = None
    pass_threshold: float | None = None

    @property
    def threshold(self) -> float:
        return 0.5 if self.pass_threshold is None else self.pass_threshold


class JudgeSampling(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How a judging model is sampled: greedily, if nothing else is said."""

    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    # OpenAI's own spelling, and the one that was meant.
    max_completions_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    reasoning_effort: str | None = None


class ScoreModel(_Criterion, tag="score_model", kw_only=True):
    """A model gives a number within `range` (0 to 1); by default its middle passes."""

    model: str
    input: Annotated[list[EvalMessage], Meta(min_length=1)]
    range: Annotated[list[float], Meta(min_length=2, max_length=2)] | None = None
    pass_threshold: float | None = None
    sampling_params: JudgeSampling | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.range or (0.0, 1.0)
        return low, high

    @property
    def threshold(self) -> float:
        low, high = self.bounds
        return (low + high) / 2 if self.pass_threshold is None else self.pass_threshold


class LabelModel(_Criterion, tag="label_model", kw_only=True):
    """A model chooses one of the labels."""

    model: str
    input: Annotated[list[EvalMessage], Meta(min_length=1)]
    labels: Labels
    passing_labels: Labels
    sampling_params: JudgeSampling | None = None


Criterion = StringCheck | TextSimilarity | PythonCheck | ScoreModel | LabelModel
ModelCriterion = ScoreModel | LabelModel
C = TypeVar("C", bound=Criterion)


def checked(criterion: C, place: str = "") -> C:
    """The criterion with its messages `normal`, once everything in it makes sense.

    Raises:
        InvalidInput: what does not, with the field's name after `place`.
    """
    dot = f"{place}." if place else ""
    if isinstance(criterion, PythonCheck):
        _check_python(criterion.source, f"{dot}source")
    elif isinstance(criterion, ScoreModel | LabelModel):
        sampling = criterion.sampling_params
        if sampling is not None and sampling.reasoning_effort not in (None, "none"):
            raise InvalidInput(
                "models here have no dial for their reasoning",
                param=f"{dot}sampling_params.reasoning_effort",
            )
        messages = [message.normal(f"{dot}input[{i}]") for i, message in enumerate(criterion.input)]
        criterion = msgspec.structs.replace(criterion, input=messages)
        _check_judge(criterion, dot)
    for field, text in _texts(criterion):
        read_text(text, dot + field)
    return criterion


def read_text(text: str, place: str, allowed: tuple[str, ...] = NAMESPACES) -> Placeholders:
    """Its placeholders. Raises InvalidInput with `place` as the field at fault."""
    try:
        return Placeholders(text, allowed)
    except InvalidInput as fault:
        raise InvalidInput(
            f"'{place}': {fault.message}", next_step=fault.next_step, param=place
        ) from None


def places_of(criterion: Criterion) -> list[Place]:
    """What it reads of item and sample. A Python source may read everything, and says nothing."""
    return [place for _, text in _texts(criterion) for place in Placeholders(text).places]


def filled(messages: Sequence[EvalMessage], spaces: Mapping[str, Any]) -> list[Message]:
    """Messages for a model. Raises DataError: a value is not there."""
    return [
        {
            # Models that are not OpenAI's know the developer's voice by its older name.
            "role": "system" if message.role == "developer" else message.role,
            "content": Placeholders(message.text).fill(spaces),
        }
        for message in messages
    ]


def _texts(criterion: Criterion) -> Iterator[tuple[str, str]]:
    match criterion:
        case StringCheck() | TextSimilarity():
            yield "input", criterion.input
            yield "reference", criterion.reference
        case ScoreModel() | LabelModel():
            for i, message in enumerate(criterion.input):
                yield f"input[{i}]", message.text
        case PythonCheck():
            return


def _check_python(source: str, place: str) -> None:
    try:
        names = compile(source, "grader.py", "exec").co_names
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise InvalidInput(f"'{place}' is no Python: {fault}", param=place) from None
    if "grade" not in names:
        raise InvalidInput(
            f"'{place}' has no function 'grade'",
            param=place,
            next_step="define grade(sample, item), which returns a number",
        )


def _check_judge(criterion: ModelCriterion, dot: str) -> None:
    if isinstance(criterion, LabelModel):
        unknown = [label for label in criterion.passing_labels if label not in criterion.labels]
        if unknown:
            raise InvalidInput(
                f"the passing label {unknown[0][:100]!r} is none of the labels",
                param=f"{dot}passing_labels",
            )
        if len(set(criterion.labels)) < len(criterion.labels):
            raise InvalidInput("two labels are the same", param=f"{dot}labels")
        return
    low, high = criterion.bounds
    if not low < high:
        raise InvalidInput(
            f"a range goes from less to more, not from {low:g} to {high:g}", param=f"{dot}range"
        )
    if not low <= criterion.threshold <= high:
        raise InvalidInput(
            f"{criterion.threshold:g} is not within the range of scores, {low:g} to {high:g}",
            param=f"{dot}pass_threshold",
        )


def _text(part: str | Part, place: str) -> str:
    if isinstance(part, str):
        return part
    if part.type not in ("input_text", "output_text", "text"):
        raise InvalidInput(
            f"'{place}.content' has a part of the type {part.type[:50]!r}: these models read text",
            param=f"{place}.content",
        )
    if part.text is UNSET:
        raise InvalidInput(
            f"Missing required parameter: '{place}.content.text'.", param=f"{place}.content.text"
        )
    return part.text
