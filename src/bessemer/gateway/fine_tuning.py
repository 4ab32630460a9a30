"""`/v1/fine_tuning/jobs`: create, list, get, cancel, pause, resume, events, checkpoints.

And `DELETE /v1/models/{model}`, for what jobs have made. Bodies are OpenAI's; a paused job has the
status `paused`, which its specification shows and forgets to list.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from bessemer.app import fine_tuned_models, fine_tuning
from bessemer.app.chat import Serving
from bessemer.app.fine_tuning import FINAL, Job, JobCheckpoint
from bessemer.app.fine_tuning_events import JobEvent, all_events, list_events, no_such_event
from bessemer.app.fine_tuning_method import Hyperparameters, Method, Supervised
from bessemer.app.platform import Platform
from bessemer.core.errors import InvalidInput
from bessemer.gateway.failures import UnsupportedParameter
from bessemer.gateway.query import Query
from bessemer.gateway.routes import Call, Deleted, ListShape, Route

EVENT_WAIT_S = 0.5
_MOST_EVENTS = 1_000


class JobBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked for. `hyperparameters` is the older way to say those of `supervised`."""

    model: str
    training_file: str
    hyperparameters: Hyperparameters | None = None
    suffix: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    validation_file: str | None = None
    integrations: list[Any] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    method: Method | None = None
    metadata: dict[str, str] | None = None

    def request(self) -> fine_tuning.Request:
        """Raises InvalidInput or UnsupportedParameter, naming the field."""
        if self.integrations:
            raise UnsupportedParameter(
                "integrations", "has no meaning here: nothing is sent to other services"
            )
        if self.hyperparameters is not None and self.method is not None:
            raise InvalidInput(
                "'hyperparameters' and 'method' say the same thing; give one of them.",
                param="hyperparameters",
            )
        return fine_tuning.Request(
            model=self.model,
            training_file=self.training_file,
            method=self.method
            or Method(
                type="supervised", supervised=Supervised(self.hyperparameters or Hyperparameters())
            ),
            validation_file=self.validation_file,
            suffix=self.suffix,
            seed=self.seed,
            metadata=self.metadata,
        )


class ErrorShape(msgspec.Struct):
    code: str
    message: str
    param: str | None


class JobShape(msgspec.Struct, kw_only=True):
    id: str
    created_at: int
    error: ErrorShape | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: fine_tuning.Status
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    method: Method
    metadata: dict[str, str] | None
    integrations: list[Any] = []
    object: Literal["fine_tuning.job"] = "fine_tuning.job"

    @classmethod
    def of(cls, job: Job) -> JobShape:
        fault, done = job.error, job.status == "succeeded"
        asked = job.method.section.hyperparameters
        shown = ("n_epochs", "batch_size", "learning_rate_multiplier")
        return cls(
            id=job.id,
            created_at=job.created_ms // 1000,
            error=None if fault is None else ErrorShape(fault.code, fault.message, fault.param),
            fine_tuned_model=job.model_name if done else None,
            finished_at=None if job.finished_ms is None else job.finished_ms // 1000,
            hyperparameters={name: getattr(asked, name) for name in shown},
            model=job.model,
            organization_id=job.org_id,
            result_files=[] if job.result_file is None else [job.result_file],
            seed=job.seed,
            status=job.status,
            trained_tokens=job.trained_tokens,
            training_file=job.training_file,
            validation_file=job.validation_file,
            estimated_finish=job.estimated_finish_s,
            method=job.method,
            metadata=None if job.metadata is None else dict(job.metadata),
        )


class EventShape(msgspec.Struct):
    id: str
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: Any | UnsetType = UNSET
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"

    @classmethod
    def of(cls, event: JobEvent) -> EventShape:
        kind: Literal["message", "metrics"] = "metrics" if event.is_metrics else "message"
        data = UNSET if event.data is None else event.data
        return cls(event.id, event.created_s, event.level, event.message, kind, data)


class CheckpointShape(msgspec.Struct):
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: Any
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"

    @classmethod
    def of(cls, found: JobCheckpoint) -> CheckpointShape:
        created_s = found.created_ms // 1000
        return cls(found.id, created_s, found.model, found.job_id, found.step, found.metrics)


_body = msgspec.json.Decoder(JobBody)


def routes(platform: Platform, serving: Serving | None = None) -> list[Route]:
    async def create(call: Call) -> None:
        """Start a fine-tuning job on uploaded files."""
        call.principal.require(fine_tuning.WRITE_SCOPE)
        request = (await call.body(_body)).request()
        job = await call.work(fine_tuning.create, platform, call.principal, request)
        await call.reply(JobShape.of(job))

    async def list_all(call: Call) -> None:
        """The project's fine-tuning jobs, newest first; `metadata[key]=value` filters."""
        asked, metadata = call.query.page(), _metadata(call.query)
        found, has_more = await call.work(
            fine_tuning.list_jobs, platform, call.principal, asked, metadata
        )
        await call.reply(ListShape.of([JobShape.of(job) for job in found], has_more))

    async def get(call: Call) -> None:
        """One fine-tuning job."""
        job = await call.work(fine_tuning.get, platform, call.principal, call.ids["job_id"])
        await call.reply(JobShape.of(job))

    async def cancel(call: Call) -> None:
        """Stop a job for good."""
        job = await call.work(fine_tuning.cancel, platform, call.principal, call.ids["job_id"])
        await call.reply(JobShape.of(job))

    async def pause(call: Call) -> None:
        """Stop a job after a checkpoint, to go on later."""
        job = await call.work(fine_tuning.pause, platform, call.principal, call.ids["job_id"])
        await call.reply(JobShape.of(job))

    async def resume(call: Call) -> None:
        """Let a paused job go on; its result has the bits of one that was never paused."""
        job = await call.work(fine_tuning.resume, platform, call.principal, call.ids["job_id"])
        await call.reply(JobShape.of(job))

    async def events(call: Call) -> None:
        """What a job says, newest first; with `stream=true` as it comes, oldest first."""
        job_id = call.ids["job_id"]
        asked = call.query.page(most=_MOST_EVENTS)
        if call.query.truth("stream"):
            if call.query.text("limit") is not None:
                raise InvalidInput("'limit' is for pages; a stream goes to the end.", param="limit")
            await _stream(platform, call, job_id, asked.after)
            return
        found, has_more = await call.work(list_events, platform, call.principal, job_id, asked)
        await call.reply(ListShape.of([EventShape.of(event) for event in found], has_more))

    async def checkpoints(call: Call) -> None:
        """The adapters that a job left on the way, newest first; each can be asked as a model."""
        job_id, asked = call.ids["job_id"], call.query.page(limit=10)
        found, has_more = await call.work(
            fine_tuning.list_checkpoints, platform, call.principal, job_id, asked
        )
        await call.reply(ListShape.of([CheckpointShape.of(each) for each in found], has_more))

    async def delete(call: Call) -> None:
        """Forget a model that a fine-tuning job of the project made."""
        model = call.ids["model"]
        await call.work(fine_tuned_models.delete, platform, call.principal, model)
        if serving is not None:
            serving.forget_names()
        await call.reply(Deleted(model, "model"))

    job = "/v1/fine_tuning/jobs/{job_id}"
    return [
        Route("POST", "/v1/fine_tuning/jobs", create),
        Route("GET", "/v1/fine_tuning/jobs", list_all, query=("after", "limit", "metadata")),
        Route("GET", job, get),
        Route("POST", job + "/cancel", cancel),
        Route("POST", job + "/pause", pause),
        Route("POST", job + "/resume", resume),
        Route("GET", job + "/events", events, query=("after", "limit", "stream")),
        Route("GET", job + "/checkpoints", checkpoints, query=("after", "limit")),
        Route("DELETE", "/v1/models/{model}", delete),
    ]


def _metadata(query: Query) -> dict[str, str] | None:
    """Pairs to filter by; `metadata=null` asks for jobs that have none."""
    if query.is_null("metadata"):
        return {}
    return dict(query.mapping("metadata")) or None


async def _stream(platform: Platform, call: Call, job_id: str, after: str | None) -> None:
    first = await call.work(fine_tuning.get, platform, call.principal, job_id)
    told = await call.work(all_events, platform, first)
    if after is not None and after not in [event.id for event in told]:
        raise no_such_event(after)

    async def send_all() -> None:
        await call.exchange.open_events()
        async for event in _events(platform, call, first.id, after):
            await call.exchange.send_event(msgspec.json.encode(EventShape.of(event)))
        await call.exchange.send_event(b"[DONE]")
        await call.exchange.end()

    await call.exchange.while_connected(send_all())


async def _events(
    platform: Platform, call: Call, job_id: str, after: str | None
) -> AsyncIterator[JobEvent]:
    """Every event behind `after`, until the job is over."""
    while True:
        job = await call.work(fine_tuning.get, platform, call.principal, job_id)
        for event in await call.work(all_events, platform, job):
            if after is None or event.id > after:
                yield event
                after = event.id
        if job.status in FINAL and job.finished_ms is not None:
            return
        await asyncio.sleep(EVENT_WAIT_S)
