"""The form of a new fine-tuning job: what may be chosen, and what was, as a request."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from bessemer.app import adapters, files, models
from bessemer.app.fine_tuning import Request
from bessemer.app.fine_tuning_method import Kind, Method
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.forms import Form
from bessemer.core.errors import InvalidInput, NotFound
from bessemer.core.principal import Principal

KINDS: tuple[Kind, ...] = ("supervised", "dpo", "reinforcement")
# What a method asks for beside the hyperparameters of all.
_OWN: dict[str, tuple[str, ...]] = {
    "supervised": (),
    "dpo": ("beta",),
    "reinforcement": ("compute_multiplier", "eval_interval", "eval_samples"),
}
FIELDS = (
    "model", "training_file", "validation_file", "method", "n_epochs", "batch_size",
    "learning_rate_multiplier", "beta", "grader", "compute_multiplier", "eval_interval",
    "eval_samples", "suffix", "seed",
)  # fmt: skip
_WHOLE = ("n_epochs", "batch_size", "eval_interval", "eval_samples")
_REAL = ("learning_rate_multiplier", "beta", "compute_multiplier")
# What the form begins with: right where the answer is what the file's line says.
GRADER = """{
  "type": "string_check",
  "name": "right",
  "operation": "eq",
  "input": "{{sample.output_text}}",
  "reference": "{{item.answer}}"
}"""
_MOST_FILES = 100


class Choices(NamedTuple):
    """What there is to choose from: names, and files for fine-tuning, newest first."""

    models: list[str]
    files: list[files.File]
    more_files: bool


def choices(platform: Platform, principal: Principal, chosen: Collection[str] = ()) -> Choices:
    """What the principal may see of it.

    Args:
        chosen: ids of files that are asked for already: they are there, however old. What is no
            file for fine-tuning is left out.
    """
    names: list[str] = []
    if principal.holds("models:read"):
        names += [model.name for model in models.list_models(platform, principal)]
        names += [adapter.name for adapter in adapters.list_adapters(platform, principal)]
    found: list[files.File] = []
    more = False
    if principal.holds(files.READ_SCOPE):
        asked = PageRequest(limit=_MOST_FILES)
        found, more = files.list_files(platform, principal, asked, "fine-tune")
        for file_id in sorted({*chosen} - {file.id for file in found}, reverse=True):
            with contextlib.suppress(NotFound):
                file = files.get(platform, principal, file_id)
                found += [file] if file.purpose == "fine-tune" else []
    return Choices(names, found, more)


def request_of(form: Form) -> Request:
    """What was filled in; empty fields are "auto".

    Raises:
        InvalidInput: naming the field.
    """
    values = {name: form.text(name) for name in FIELDS}
    for name in ("model", "training_file"):
        if not values[name]:
            raise InvalidInput(f"choose a {name.replace('_', ' ')}", param=name)
    kind = values["method"] or "supervised"
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise InvalidInput(f"the method is {kind[:40]!r}; it is one of {known}", param="method")
    others = {name for method, own in _OWN.items() if method != kind for name in own}
    asked = {name: text for name, text in values.items() if name not in others}
    section: dict[str, Any] = {
        "hyperparameters": {**_numbers(asked, _WHOLE, int), **_numbers(asked, _REAL, float)}
    }
    if kind == "reinforcement":
        section["grader"] = _grader(values["grader"])
    seed = _numbers(values, ("seed",), int).get("seed")
    tree = {"type": kind, kind: section}
    try:
        method = msgspec.convert(tree, Method)
    except msgspec.ValidationError as fault:
        raise InvalidInput(f"a hyperparameter makes no sense: {fault}", param="method") from None
    if seed is not None and not 0 <= seed < 2**31:
        raise InvalidInput(f"the seed is {seed}; it goes from 0 to {2**31 - 1:,}", param="seed")
    return Request(
        model=values["model"],
        training_file=values["training_file"],
        method=method,
        validation_file=values["validation_file"] or None,
        suffix=values["suffix"] or None,
        seed=seed,
    )


def body_of(request: Request) -> dict[str, Any]:
    """The request as the API takes it; what is "auto" is left out."""
    section = msgspec.to_builtins(request.method.section)
    numbers = section.pop("hyperparameters").items()
    chosen = {key: value for key, value in numbers if value not in ("auto", "default")}
    if chosen:
        section["hyperparameters"] = chosen
    method: dict[str, Any] = {"type": request.method.type}
    if section:
        method[request.method.type] = section
    told = {"model": request.model, "training_file": request.training_file, "method": method}
    rest = ("validation_file", "suffix", "seed")
    return told | {key: value for key in rest if (value := getattr(request, key)) is not None}


def values_of(request: Request) -> dict[str, str]:
    """The request as the form shows it again."""
    body = body_of(request)
    method = body.pop("method")
    section = method.get(method["type"], {})
    told = {**body, **section.get("hyperparameters", {}), "method": method["type"]}
    if "grader" in section:
        told["grader"] = json.dumps(section["grader"], indent=2, ensure_ascii=False)
    return {key: str(value) for key, value in told.items()}


def _grader(text: str) -> dict[str, Any]:
    """JSON as the API takes it. What the object says is read where it is asked for."""
    if not text:
        raise InvalidInput(
            "a reinforcement job needs a grader, which says what an answer is worth", param="grader"
        )
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.ValidationError as fault:
        what = f"has to be a JSON object: {fault}"
    except msgspec.DecodeError as fault:
        what = f"is no JSON: {_in_lines(str(fault), text)}"
    except RecursionError:
        what = "is nested too deeply"
    raise InvalidInput(f"the grader {what}", param="grader")


def _in_lines(fault: str, text: str) -> str:
    """Where a text is at fault, as whoever typed it can find the place.

    >>> _in_lines("JSON is malformed: expected ':' (byte 6)", '{\\n "b" 2}')
    "line 2: expected ':'"
    """
    told = re.fullmatch(r"JSON is malformed: (.*) \(byte (\d+)\)", fault)
    if told is None:
        return "it ends before it is whole" if "truncated" in fault else fault
    line = text.encode()[: int(told[2])].count(b"\n") + 1
    return f"line {line}: {told[1]}"


def _numbers(values: dict[str, str], names: tuple[str, ...], kind: type) -> dict[str, Any]:
    found = {}
    for name in names:
        text = values.get(name)
        if text and text != "auto":
            try:
                found[name] = kind(text)
                if not math.isfinite(found[name]):  # which no JSON says
                    raise ValueError
            except ValueError:
                raise InvalidInput(
                    f"{name.replace('_', ' ')} is {text[:40]!r}; leave it empty, or give a number",
                    param=name,
                ) from None
    return found
