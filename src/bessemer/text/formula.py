"""Formulas over named numbers, as OpenAI's `multi` graders have them: `0.7 * fact + max(a, b) ^ 2`.

`+ - * / ^`, parentheses, and the functions of OpenAI's API: min, max, abs, floor, ceil, exp, sqrt,
log. Nothing else of Python is understood.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from bessemer.core.errors import DataError, InvalidInput

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil,
    "exp": math.exp, "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip
MAX_CHARS = 10_000

_ONE: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_TWO: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: math.pow,
}  # fmt: skip


class Formula:
    """A formula, read once.

    >>> Formula("0.5 * fact + min(style, 1) ^ 2").value({"fact": 1.0, "style": 0.5})
    0.75

    Raises:
        InvalidInput: it cannot be read, or uses something that is not there.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARS:
            raise InvalidInput(f"a formula has at most {MAX_CHARS:,} characters, not {len(text):,}")
        try:
            # In Python `^` is another operator that binds less than the sum.
            self._tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InvalidInput(f"the formula {text[:200]!r} cannot be read") from None

    def value(self, numbers: Mapping[str, float]) -> float:
        """Raises DataError: it divides by 0, or leaves the finite numbers in another way."""
        try:
            found = float(_value(self._tree, numbers))
        except (ArithmeticError, ValueError) as fault:
            raise DataError(f"the formula has no value: {fault}") from None
        if not math.isfinite(found):
            raise DataError(f"the formula gives {found}, which is no reward")
        return found


def _names(node: ast.expr) -> list[str]:
    """The names it reads, while everything in it is looked at."""
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return []
        case ast.Name(id=name):
            return [name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _ONE:
            return _names(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _TWO:
            return [*_names(left), *_names(right)]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if (
            name in FUNCTIONS and arguments
        ):
            if name not in ("min", "max") and len(arguments) != 1:
                raise InvalidInput(f"{name} in a formula takes one value, not {len(arguments)}")
            return [found for argument in arguments for found in _names(argument)]
    raise InvalidInput(
        f"a formula cannot have {ast.unparse(node)[:100]!r}",
        next_step=f"use names of graders, numbers, + - * / ^ and {', '.join(FUNCTIONS)}",
    )


def _value(node: ast.expr, numbers: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return numbers[name]
        case ast.UnaryOp(op=op, operand=operand):
            return float(_ONE[type(op)](_value(operand, numbers)))
        case ast.BinOp(left=left, op=op, right=right):
            return _TWO[type(op)](_value(left, numbers), _value(right, numbers))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            values = [_value(argument, numbers) for argument in arguments]
            # One value is its own least and greatest.
            return values[0] if name in ("min", "max") and len(values) == 1 else float(
                FUNCTIONS[name](*values)
            )  # fmt: skip
    raise AssertionError(f"_names has let {ast.dump(node)} pass")
