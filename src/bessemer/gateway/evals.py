"""`/v1/evals`: create, list, get, update and delete definitions; `eval_runs` has their runs."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from bessemer.app import eval_definitions
from bessemer.app.eval_definitions import (
    Criterion,
    CustomData,
    DataConfig,
    Eval,
    LogsData,
    Metadata,
)
from bessemer.app.platform import Platform
from bessemer.gateway.query import PAGING
from bessemer.gateway.routes import Call, ListShape, Route


class CreateEval(msgspec.Struct, forbid_unknown_fields=True):
    data_source_config: DataConfig
    testing_criteria: list[Criterion]
    name: str | None = None
    metadata: Metadata | None = None


class UpdateEval(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    metadata: Metadata | None = None


class ConfigShape(msgspec.Struct, omit_defaults=True):
    """What items look like, as a schema of what templates can name: `item` and `sample`."""

    type: str
    schema: dict[str, Any]
    metadata: dict[str, str] | UnsetType = UNSET

    @classmethod
    def of(cls, config: DataConfig) -> ConfigShape:
        if isinstance(config, CustomData):
            sampled = bool(config.include_sample_schema)
            return cls("custom", _schema(config.item_schema, sampled))
        kind = "logs" if isinstance(config, LogsData) else "stored_completions"
        return cls(kind, _schema({"type": "object"}, True), config.metadata or {})


class EvalShape(msgspec.Struct):
    id: str
    name: str
    data_source_config: ConfigShape
    testing_criteria: list[dict[str, Any]]
    created_at: int
    metadata: dict[str, str]
    object: str = "eval"

    @classmethod
    def of(cls, found: Eval) -> EvalShape:
        criteria = [
            {"id": label, **msgspec.to_builtins(criterion)}
            for label, criterion in zip(found.labels, found.criteria, strict=True)
        ]
        return cls(
            found.id,
            found.name,
            ConfigShape.of(found.config),
            criteria,
            found.created_ms // 1000,
            dict(found.metadata),
        )


class DeletedEval(msgspec.Struct):
    eval_id: str
    object: str = "eval.deleted"
    deleted: bool = True


_create = msgspec.json.Decoder(CreateEval)
_update = msgspec.json.Decoder(UpdateEval)


def routes(platform: Platform) -> list[Route]:
    async def create(call: Call) -> None:
        """Keep a definition: what items look like, and the criteria that judge answers."""
        call.principal.require(eval_definitions.WRITE_SCOPE)
        body = await call.body(_create)
        found = await call.work(
            eval_definitions.add,
            platform,
            call.principal,
            body.data_source_config,
            body.testing_criteria,
            name=body.name,
            metadata=body.metadata,
        )
        await call.reply(EvalShape.of(found), 201)

    async def list_all(call: Call) -> None:
        """The project's evals."""
        order_by = call.query.choice("order_by", ("created_at", "updated_at")) or "created_at"
        found, has_more = await call.work(
            eval_definitions.list_evals,
            platform,
            call.principal,
            call.query.page(order="asc"),
            cast(eval_definitions.OrderBy, order_by),
        )
        await call.reply(ListShape.of([EvalShape.of(one) for one in found], has_more))

    async def get(call: Call) -> None:
        """One eval."""
        found = await call.work(eval_definitions.get, platform, call.principal, call.ids["eval_id"])
        await call.reply(EvalShape.of(found))

    async def update(call: Call) -> None:
        """Rename an eval, or give it other metadata."""
        body = await call.body(_update)
        found = await call.work(
            eval_definitions.update,
            platform,
            call.principal,
            call.ids["eval_id"],
            name=body.name,
            metadata=body.metadata,
        )
        await call.reply(EvalShape.of(found))

    async def delete(call: Call) -> None:
        """Forget an eval, its runs and their results."""
        await call.work(eval_definitions.delete, platform, call.principal, call.ids["eval_id"])
        await call.reply(DeletedEval(call.ids["eval_id"]))

    return [
        Route("POST", "/v1/evals", create),
        Route("GET", "/v1/evals", list_all, query=(*PAGING, "order_by")),
        Route("GET", "/v1/evals/{eval_id}", get),
        Route("POST", "/v1/evals/{eval_id}", update),
        Route("DELETE", "/v1/evals/{eval_id}", delete),
    ]


def _schema(item: dict[str, Any], with_sample: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"item": item}
    if with_sample:
        properties["sample"] = {
            "type": "object",
            "properties": {"output_text": {"type": "string"}},
        }
    return {"type": "object", "properties": properties, "required": list(properties)}
