"""What the lines of a dataset may look like: chats, preferences or prompts; one shape in each.

`dataset.json` names it as its `kind`; where it names none, the dataset holds chats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from bessemer.data.chat_rules import faults_of
from bessemer.data.chats import Chat, Counts, chat_of
from bessemer.data.preferences import OUTPUTS, Preference, preference_faults, preference_of
from bessemer.data.prompts import Prompt, is_prompt, prompt_faults, prompt_of


class Example(Protocol):
    """One line of a dataset, parsed."""

    @property
    def kind(self) -> str | None: ...

    @property
    def symbol(self) -> str | None: ...

    def as_line(self) -> dict[str, Any]:
        """As the published format has it."""
        ...

    def said(self) -> str:
        """The text by which near-duplicates are found; they stay in one split."""
        ...

    def counts(self) -> Counts: ...


E_co = TypeVar("E_co", bound=Example, covariant=True)


@dataclass(frozen=True)
class Shape(Generic[E_co]):
    """One format of lines.

    Attributes:
        name: the `kind` in dataset.json.
        one: what one line is called.
        source: what a file of such lines is called.
        keys: a line that has one of these may have this shape.
        faults_of: what is wrong with a parsed line, in words.
        parse: a good line, and its `kind` and `symbol`, as an example.
    """

    name: str
    one: str
    source: str
    keys: frozenset[str]
    faults_of: Callable[[Any], list[str]]
    parse: Callable[[dict[str, Any], str | None, str | None], E_co]


CHATS: Shape[Chat] = Shape(
    "chats", "chat", "OpenAI chat fine-tuning lines", frozenset({"messages"}), faults_of, chat_of
)
PREFERENCES: Shape[Preference] = Shape(
    "preferences",
    "preference",
    "OpenAI preference fine-tuning lines",
    frozenset(OUTPUTS),
    preference_faults,
    preference_of,
)
PROMPTS: Shape[Prompt] = Shape(
    "prompts",
    "prompt",
    "OpenAI reinforcement fine-tuning lines",
    frozenset({"messages"}),
    prompt_faults,
    prompt_of,
)
SHAPES: tuple[Shape[Example], ...] = (CHATS, PREFERENCES)


def shape_of(line: Any) -> Shape[Example] | None:
    """The shape of a parsed line, by its keys and last message; None where they do not tell."""
    if not isinstance(line, dict):
        return None
    if is_prompt(line):
        return PROMPTS
    return next((shape for shape in SHAPES if line.keys() & shape.keys), None)
