"""Which tokens may come next: JSON Schema, regular expressions, grammars and choices.

llguidance walks the vocabulary's bytes along a grammar; here is what is ours about it: what a
constraint means as a grammar, a thread that compiles so that the engine's never waits for it, and
limits that no text of a stranger gets past.

    V vocabulary
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from bessemer.core.errors import BessemerError, EngineUnavailable, InvalidInput
from bessemer.core.protocols import MAX_CONSTRAINT_CHARS, Constraint
from bessemer.text.tokenizer import Tokenizer

KEPT = 64  # compiled constraints

# llguidance follows references and rules by recursion, 5 kB of stack for each "$ref". This is four
# times what the longest text was seen to need; pages that are not touched cost nothing.
_STACK_BYTES = 1 << 28

# One space, or a line feed and an indentation: what JSON is written with. Any amount of white space
# is valid as well, and a small model that is once in it does not come out before max_tokens.
_JSON_STYLE = {"whitespace_pattern": " |\\n {0,32}"}

# Beyond it a JSON number is not exact, and llguidance 1.9 follows a negative one below by recursion
# without end, which no stack is deep enough for.
_LARGEST_INTEGER = 2**53 - 1
_TOO_NEGATIVE = re.compile(r"-[0-9]{16,}")

_LIMITS = llguidance.LLParserLimits(max_lexer_states=50_000, verbose_errors=False)

Made = Callable[["Matcher | BessemerError"], None]


class Matcher:
    """One answer's way through a grammar. Not thread-safe; give each sequence its own.

    Attributes:
        eos_ids: tokens that end an answer; they are never part of one.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, eos_ids: frozenset[int], param: str | None
    ) -> None:
        self._matcher, self.eos_ids, self._param = matcher, eos_ids, param

    @property
    def done(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def masked(self, scores_V: Tensor, stop_ids: Collection[int]) -> Tensor:
        """The scores, minus infinity for tokens that may not be next.

        `stop_ids` may be next exactly where the answer may end.

        Raises:
            InvalidInput: the grammar asks for more work than one token is worth, or this
                vocabulary cannot spell what has to follow.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(bits, count=len(scores_V), bitorder="little")
        allowed_V[[i for i in stop_ids if i < len(scores_V)]] = self._matcher.is_accepting()
        if not allowed_V.any():
            raise self._fault("no token of this model's vocabulary can follow")
        # NumPy computes in this thread; torch would wake its team for it.
        kept_V = np.where(allowed_V, scores_V.cpu().numpy(), -np.inf)
        return torch.from_numpy(kept_V).to(scores_V.device, scores_V.dtype)

    def take(self, token: int, room: int, stop_ids: Collection[int]) -> list[int]:
        """Go on by `token`, and by what must follow it, up to `room` tokens in all or a stop id.

        Where only one token can be next, `masked` leaves only that one: taking it without a look
        at its score changes nothing but the time it takes.

        Raises:
            InvalidInput: as `masked`.
        """
        self._matcher.consume_token(token)
        self._check()
        forced = [] if room <= 1 or self.done else self._matcher.compute_ff_tokens()[: room - 1]
        end = next((i for i, id_ in enumerate(forced) if id_ in stop_ids), len(forced))
        if end:
            self._matcher.consume_tokens(forced[:end])
            self._check()
        return [token, *forced[:end]]

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._fault(_first_line(self._matcher.get_error()))

    def _fault(self, why: str) -> InvalidInput:
        return InvalidInput(
            f"the answer cannot go on under its constraint: {why}",
            next_step="make the constraint simpler",
            param=self._param,
        )


class Compiler:
    """Makes matchers for the model in `folder`, in a thread that starts with the first one.

    Compiling takes about a millisecond and may take a second; llguidance lets other threads run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._orders: queue.SimpleQueue[tuple[Constraint, Made] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._kept: OrderedDict[tuple[str, str], llguidance.LLMatcher] = OrderedDict()

    def compile(self, constraint: Constraint, made: Made) -> None:
        """Call `made` in the compiler's thread, with a matcher or with what is wrong."""
        with self._lock:
            if not self._closed:
                self._orders.put((constraint, made))
                self._start()
                return
        made(EngineUnavailable("the engine was stopped"))

    def close(self) -> None:
        """Finish what was ordered; whoever orders later is refused."""
        with self._lock:
            self._closed = True
            self._orders.put(None)
        if self._thread is not None:
            self._thread.join()

    def matcher(self, constraint: Constraint) -> Matcher:
        """`compile`, in the thread of the caller, which has to have a deep stack.

        Raises:
            InvalidInput: the constraint has a fault, or the model has no text to hold to it.
        """
        key = (constraint.kind, constraint.text)
        if key not in self._kept:
            self._kept[key] = self._compiled(constraint)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        eos_ids = frozenset(self._open_vocabulary().eos_tokens)
        return Matcher(self._kept[key].deep_copy(), eos_ids, constraint.param)

    def _start(self) -> None:
        if self._thread is None:
            before = threading.stack_size(_STACK_BYTES)
            self._thread = threading.Thread(target=self._work, name="constraints", daemon=True)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            constraint, made = order
            made(self._try(constraint))

    def _try(self, constraint: Constraint) -> Matcher | BessemerError:
        try:
            return self.matcher(constraint)
        except BessemerError as error:
            error.param = error.param or constraint.param
            return error
        except BaseException as fault:  # a panic in Rust is no Exception; nobody may wait forever
            return InvalidInput(
                f"the constraint cannot be compiled: {_first_line(repr(fault))}",
                param=constraint.param,
            )

    def _compiled(self, constraint: Constraint) -> llguidance.LLMatcher:
        try:
            grammar = grammar_of(constraint)
            matcher = llguidance.LLMatcher(
                self._open_vocabulary(), grammar, log_level=0, limits=_LIMITS
            )
        except (ValueError, RecursionError) as fault:  # half a surrogate pair, endless nesting
            raise _bad(constraint, str(fault)) from None
        if matcher.is_error():
            raise _bad(constraint, matcher.get_error())
        return matcher

    def _open_vocabulary(self) -> llguidance.LLTokenizer:
        if self._vocabulary is None:
            tokenizer = Tokenizer.load(self._folder)
            text = (self._folder / "tokenizer.json").read_text(encoding="utf-8")
            eos_ids = sorted(tokenizer.eos_ids) or None
            self._vocabulary = llguidance.LLTokenizer(text, eos_token=eos_ids)
        return self._vocabulary


def grammar_of(constraint: Constraint) -> str:
    """What llguidance compiles.

    Raises:
        InvalidInput: the text is too long, or is not what its kind says.
        ValueError, RecursionError: a schema is not JSON.

    >>> grammar_of(Constraint("choice", '["yes", "no"]'))
    '{ "grammars": [{ "lark_grammar": "start: \\\\"yes\\\\" | \\\\"no\\\\"" }] }'
    """
    text, make = constraint.text, llguidance.LLMatcher
    if len(text) > MAX_CONSTRAINT_CHARS:
        limit = f"the limit is {MAX_CONSTRAINT_CHARS:,}"
        raise _bad(constraint, f"it has {len(text):,} characters; {limit}")
    match constraint.kind:
        case "json_object":
            return str(make.grammar_from_json_schema({"type": "object", "x-guidance": _JSON_STYLE}))
        case "json_schema":
            return str(make.grammar_from_json_schema(_styled(constraint, json.loads(text))))
        case "regex":
            return str(make.grammar_from_regex(text))
        case "lark":
            if found := _TOO_NEGATIVE.search(text):  # %json may hold it, and a tool's schema
                raise _bad(constraint, f"{found[0][:40]} is too long a number")
            return str(make.grammar_from_lark(text))
        case "choice":
            choices = json.loads(text)
            if not choices:
                raise _bad(constraint, "it is empty")
            return str(make.grammar_from_lark("start: " + " | ".join(map(json.dumps, choices))))


def _styled(constraint: Constraint, schema: Any) -> dict[str, Any]:
    """The schema with our white space; what else it says to llguidance would loosen it."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _bad(constraint, "a JSON Schema is an object")
    for number in _integers_in(schema):
        if abs(number) > _LARGEST_INTEGER:
            raise _bad(
                constraint, f"{str(number)[:30]} is beyond the exact integers, +-{_LARGEST_INTEGER}"
            )
    return {**schema, "x-guidance": _JSON_STYLE}


def _integers_in(schema: Any) -> Iterator[int]:
    """Every integer at any depth; a list of what is left instead of recursion."""
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int):
            yield value


_NAMES = {
    "json_schema": "JSON Schema",
    "json_object": "constraint",
    "regex": "regular expression",
    "lark": "grammar",
    "choice": "list of choices",
}


def _bad(constraint: Constraint, why: str) -> InvalidInput:
    return InvalidInput(
        f"the {_NAMES[constraint.kind]} cannot be held to: {_first_line(why)}",
        param=constraint.param,
    )


def _first_line(text: str) -> str:
    """What is wrong, without the drawing of where; a regex's fault is on its last line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    said = lines[0] if lines else "it is empty"
    with contextlib.suppress(StopIteration):
        said += " " + next(line for line in lines[1:] if line.startswith("error:"))
    return said[:300]
