"""Asking for a run of an eval, and whether it can be done at all.

    run = submit(platform, principal, serving, eval_id, plan, data_source)

Everything that can be found out before the first item is found out here: a line that does not
follow the schema, a model that is not served, a sandbox that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bessemer.app import eval_definitions, eval_runs, eval_sources
from bessemer.app.catalog import SENTENCE_MODEL
from bessemer.app.chat import CHAT_SCOPE, Serving, askable, no_such_model
from bessemer.app.eval_definitions import WRITE_SCOPE
from bessemer.app.eval_plans import Plan
from bessemer.app.eval_runs import EvalRun
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.core.sandbox import require_sandbox
from bessemer.text.criteria import (
    Criterion,
    LabelModel,
    PythonCheck,
    ScoreModel,
    TextSimilarity,
    read_text,
)
from bessemer.text.placeholders import place_of


def submit(
    platform: Platform,
    principal: Principal,
    serving: Serving | None,
    eval_id: str,
    plan: Plan,
    data_source: Any,
    *,
    name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> EvalRun:
    """Ask for a run; a server does it. Reads the database and the source: not for an event loop.

    Args:
        serving: what is served here; None leaves models unchecked.
        data_source: the source as it was sent, which is how it will be shown.

    Raises:
        NotFound: no such eval, file or model.
        DataError: a line of the source, by its number.
        InvalidInput: the plan makes no sense.
        PermissionDenied: the run would ask models, and the principal may not.
        SandboxUnavailable: Python is to be run, and cannot be contained here.
    """
    definition = eval_definitions.get(platform, principal, eval_id, scope=WRITE_SCOPE)
    _check_prompt(plan)
    models = [*([plan.model] if plan.model else []), *models_of(definition.criteria)]
    if models:
        principal.require(CHAT_SCOPE)
    if serving is not None:
        served = {model.id for model in askable(serving, principal)}
        for model in models:
            if model not in served:
                raise no_such_model(model)
    if any(isinstance(criterion, PythonCheck) for criterion in definition.criteria):
        eval_definitions.require_modules(definition.criteria)
        require_sandbox()
    sampled = plan.model is not None
    source = eval_sources.chosen(platform, principal, definition, plan.source, sampled=sampled)
    plan = msgspec.structs.replace(plan, source=source)
    total = eval_sources.check(platform, principal, definition, source, sampled=sampled)
    return eval_runs.add(
        platform,
        principal,
        eval_id,
        plan,
        data_source,
        total=total,
        name=name,
        model=plan.model or "",
        metadata=metadata,
    )


def models_of(criteria: Sequence[Criterion]) -> Iterator[str]:
    """The names of the models that judge."""
    for criterion in criteria:
        match criterion:
            case ScoreModel() | LabelModel():
                yield criterion.model
            case TextSimilarity(evaluation_metric="cosine"):
                yield criterion.embedding_model or SENTENCE_MODEL


def _check_prompt(plan: Plan) -> None:
    if plan.model is None:
        return
    place = "data_source.input_messages"
    if plan.messages is not None:
        if not plan.messages:
            raise InvalidInput("there is no message to send", param=f"{place}.template")
        for i, message in enumerate(plan.messages):
            read_text(message.text, f"{place}.template[{i}]", allowed=("item",))
    elif plan.reference is not None:
        place_of(plan.reference, allowed=("item",))
    else:
        raise InvalidInput(f"Missing required parameter: '{place}'.", param=place)
