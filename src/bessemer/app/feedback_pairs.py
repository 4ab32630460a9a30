"""What was said of answers, as what models learn preferences from: a file for a `dpo` job.

A correction is preferred to the answer that it corrects. The question and the answer are those of
the stored chat completion, so what was not asked with `store` leads to no pair, nor does an answer
of several choices, since nobody says which of them was meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from bessemer.app import feedback, files, stored_completions
from bessemer.app.files import File
from bessemer.app.platform import Platform
from bessemer.app.tables import chat_completions
from bessemer.app.tables import feedback as rows
from bessemer.core.errors import InvalidInput
from bessemer.core.principal import Principal
from bessemer.data.jsonl import one_line
from bessemer.data.preferences import Preference

FILENAME = "feedback.jsonl"


def write_pairs(platform: Platform, principal: Principal) -> File:
    """A new file of all pairs of the project, the oldest first.

    Raises:
        InvalidInput: there is none.
    """
    principal.require(files.WRITE_SCOPE)
    principal.require(feedback.READ_SCOPE)
    principal.require(stored_completions.READ_SCOPE)
    with files.writer(platform) as written:
        with platform.db.read() as connection:
            for pair in _pairs(connection, principal):
                written.write(one_line(msgspec.json.encode(pair.as_line())))
        if not written.bytes:
            raise InvalidInput(
                "nobody has corrected a stored chat completion of this project",
                next_step="ask with store=true, then POST /v1/feedback with a correction",
            )
        return files.add(platform, principal, FILENAME, "fine-tune", written)


def _pairs(connection: sa.Connection, principal: Principal) -> Iterator[Preference]:
    # Feedback may name a request; its id ends like its answer's.
    tail = sa.func.replace(rows.c.completion_id, "req_", "chatcmpl-")
    query = (
        sa.select(rows.c.correction, chat_completions.c.messages, chat_completions.c.answer)
        .join(chat_completions, chat_completions.c.id == tail)
        .where(rows.c.project_id == principal.project_id, rows.c.correction.is_not(None))
        .where(chat_completions.c.project_id == principal.project_id)
        .order_by(rows.c.id)
    )
    for row in connection.execute(query):
        answer = _only_text(msgspec.json.decode(row.answer)["choices"])
        if answer is not None and answer != row.correction:
            yield Preference(
                msgspec.json.decode(row.messages), _said(row.correction), _said(answer)
            )


def _only_text(choices: list[dict[str, Any]]) -> str | None:
    """What an answer of one choice says; None if it says nothing, or calls tools besides."""
    if len(choices) != 1 or choices[0]["message"].get("tool_calls"):
        return None
    return choices[0]["message"].get("content") or None


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
