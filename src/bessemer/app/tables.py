"""The rows of the API's own objects: what OpenAI's endpoints list, get and delete.

JSON is canonical text, times are Unix milliseconds, as everywhere (`core.tables`).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Text

from bessemer.core.tables import owned

__all__ = [
    "batches",
    "chat_completions",
    "conversations",
    "eval_outputs",
    "eval_runs",
    "evals",
    "feedback",
    "files",
    "fine_tuning_checkpoints",
    "fine_tuning_jobs",
    "items",
    "labels",
    "responses",
    "upload_parts",
    "uploads",
]

# What was uploaded or written for somebody; the bytes are in the home, under the row's id.
files = owned(
    "files",
    Column("filename", String(500), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("expires_ms", BigInteger),
    Index(None, "project_id", "purpose"),
)

# A file that comes in parts. Its parts are in the home, under the ids of their rows.
uploads = owned(
    "uploads",
    Column("filename", String(500), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("mime_type", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("file_expires_s", Integer),
    Column("file_id", String(64)),
    Index(None, "status"),
)

upload_parts = owned(
    "upload_parts",
    Column("upload_id", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Index(None, "upload_id"),
)

# Requests of one file, answered in the background. What each came to is in the home until the
# batch is over, and then in its files.
batches = owned(
    "batches",
    Column("key_id", String(64)),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", String(500)),
    Column("errors", Text),
    Column("metadata", Text),
    Column("output_expires_s", Integer),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("total", Integer, nullable=False, server_default="0"),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False, server_default="0"),
    Column("reasoning_tokens", BigInteger, nullable=False, server_default="0"),
    Column("expires_ms", BigInteger, nullable=False),
    Column("in_progress_ms", BigInteger),
    Column("finalizing_ms", BigInteger),
    Column("completed_ms", BigInteger),
    Column("failed_ms", BigInteger),
    Column("expired_ms", BigInteger),
    Column("cancelling_ms", BigInteger),
    Column("cancelled_ms", BigInteger),
    Index(None, "project_id"),
    Index(None, "status"),
)

# What somebody said of an answer.
feedback = owned(
    "feedback",
    Column("completion_id", String(64), nullable=False),
    Column("rating", String(8), nullable=False),
    Column("comment", Text),
    Column("correction", Text),
    Column("stored", Integer, nullable=False),
    Index(None, "project_id", "completion_id"),
)

# What is asked and judged; `config` and `criteria` are JSON of `app.eval_definitions`.
evals = owned(
    "evals",
    Column("name", String(500), nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("config", Text, nullable=False),
    Column("criteria", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Index(None, "project_id", "updated_ms"),
)

# One run of an eval. `plan` is what is done (`app.eval_plans`), `data_source` that as it was sent,
# `tally` what its outputs add up to; outputs and tally change in one transaction.
eval_runs = owned(
    "eval_runs",
    Column("eval_id", String(64), nullable=False),
    Column("name", String(500), nullable=False),
    Column("model", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("principal", Text, nullable=False),
    Column("data_source", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("tally", Text, nullable=False),
    Column("error", Text),
    Column("ended_ms", BigInteger),
    Index(None, "eval_id", "state"),
    Index(None, "state"),
)

# What became of one item of a run: never more than one row for an item.
eval_outputs = owned(
    "eval_outputs",
    Column("eval_id", String(64), nullable=False),
    Column("run_id", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("item_sha256", String(64), nullable=False),
    Column("state", String(8), nullable=False),
    Column("verdicts", Text, nullable=False),
    Column("output", Text, nullable=False),
    Index(None, "run_id", "number", unique=True),
    Index(None, "run_id", "state"),
)

# What was asked to be fine-tuned. `state`: validating, open (a run has it), succeeded, failed or
# cancelled; `wanted`: run, pause or cancel. What happens meanwhile is in the run's folder.
fine_tuning_jobs = owned(
    "fine_tuning_jobs",
    Column("model", String(200), nullable=False),
    Column("method", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("training_file", String(64), nullable=False),
    Column("validation_file", String(64)),
    Column("metadata", Text),
    Column("fine_tuned_model", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("wanted", String(8), nullable=False),
    Column("run_id", String(64)),
    Column("result_file", String(64)),
    Column("trained_tokens", BigInteger),
    Column("error", Text),
    Column("finished_ms", BigInteger),
    Index(None, "project_id"),
    Index(None, "state"),
)

# Adapters that were left on the way, each under a name that can be asked.
fine_tuning_checkpoints = owned(
    "fine_tuning_checkpoints",
    Column("job_id", String(64), nullable=False),
    Column("step", Integer, nullable=False),
    Column("model", String(200), nullable=False),
    Column("metrics", Text, nullable=False),
    Index(None, "job_id", "step", unique=True),
)

# Chat completions that were asked to be stored: the answer as it was sent, and the messages before
# it as they came.
chat_completions = owned(
    "chat_completions",
    Column("model", String(200), nullable=False),
    Column("labels", Text, nullable=False),
    Column("messages", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Index(None, "project_id", "model"),
)

# The `labels` of a stored completion one by one, to be found by: clients call them `metadata`.
labels = owned(
    "labels",
    Column("holder_id", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("value", String(512), nullable=False),
    Index(None, "project_id", "key", "value"),
    Index(None, "holder_id"),
)

# Responses that were asked to be stored, and every background one. `record` is
# `app.responses.Response`; `pieces` is what a background stream said, to be said again.
responses = owned(
    "responses",
    Column("model", String(200), nullable=False),
    Column("status", String(16), nullable=False),
    Column("background", Integer, nullable=False),
    Column("previous_id", String(64)),
    Column("record", Text, nullable=False),
    Column("pieces", LargeBinary),
    Index(None, "project_id", "model"),
    Index(None, "status"),
)

conversations = owned("conversations", Column("labels", Text, nullable=False))

# What was said: `holder_id` is a response or a conversation, `item_id` the name clients know it by,
# which two holders may share. The rows' own ids are in the order in which they were added.
items = owned(
    "items",
    Column("holder_id", String(64), nullable=False),
    Column("item_id", String(64), nullable=False),
    Column("side", String(8), nullable=False),
    Column("item", Text, nullable=False),
    Index(None, "holder_id", "item_id", unique=True),
    Index(None, "project_id", "item_id"),
)
