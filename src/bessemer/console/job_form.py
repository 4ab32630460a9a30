"""The form of a new fine-tuning job: what may be chosen, and what was, as a request."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from bessemer.app import adapters, files, models
from bessemer.app.fine_tuning import Request
from bessemer.app.fine_tuning_method import Method
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.forms import Form
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal

FIELDS = (
    "model", "training_file", "validation_file", "method", "n_epochs", "batch_size",
    "learning_rate_multiplier", "beta", "suffix", "seed",
)  # fmt: skip
_WHOLE, _REAL = ("n_epochs", "batch_size"), ("learning_rate_multiplier", "beta")
_MOST_FILES = 100


class Choices(NamedTuple):
    """What there is to choose from: names, and files for fine-tuning, newest first."""

    models: list[str]
    files: list[files.File]


def choices(platform: Platform, principal: Principal) -> Choices:
    """What the principal may see of it."""
    names: list[str] = []
    if principal.holds("models:read"):
        names += [model.name for model in models.list_models(platform, principal)]
        names += [adapter.name for adapter in adapters.list_adapters(platform, principal)]
    found: list[files.File] = []
    if principal.holds(files.READ_SCOPE):
        asked = PageRequest(limit=_MOST_FILES)
        found, _ = files.list_files(platform, principal, asked, "fine-tune")
    return Choices(names, found)


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
    if kind not in ("supervised", "dpo"):
        raise InvalidInput(f"the method is {kind[:40]!r}; it is supervised or dpo", param="method")
    numbers = {**_numbers(values, _WHOLE, int), **_numbers(values, _REAL, float)}
    if kind != "dpo":
        numbers.pop("beta", None)
    seed = _numbers(values, ("seed",), int).get("seed")
    tree = {"type": kind, kind: {"hyperparameters": numbers}}
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
    chosen = {key: value for key, value in section["hyperparameters"].items() if value != "auto"}
    method: dict[str, Any] = {"type": request.method.type}
    if chosen:
        method[request.method.type] = {"hyperparameters": chosen}
    told = {"model": request.model, "training_file": request.training_file, "method": method}
    rest = ("validation_file", "suffix", "seed")
    return told | {key: value for key in rest if (value := getattr(request, key)) is not None}


def values_of(request: Request) -> dict[str, str]:
    """The request as the form shows it again."""
    body = body_of(request)
    section = body.pop("method")
    numbers = section.get(section["type"], {}).get("hyperparameters", {})
    told = {**body, **numbers, "method": section["type"]}
    return {key: str(value) for key, value in told.items()}


def _numbers(values: dict[str, str], names: tuple[str, ...], kind: type) -> dict[str, Any]:
    found = {}
    for name in names:
        text = values[name]
        if text and text != "auto":
            try:
                found[name] = kind(text)
            except ValueError:
                raise InvalidInput(
                    f"{name.replace('_', ' ')} is {text[:40]!r}; leave it empty, or give a number",
                    param=name,
                ) from None
    return found
