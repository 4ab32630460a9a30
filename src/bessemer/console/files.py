"""The pages of files: the list, one file with its lines, and what is done with it.

An upload is a form: what comes is spooled by Starlette, and only a body that says how long it is,
and is short enough, is read at all.
"""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple, cast

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from bessemer.app import files
from bessemer.app.file_survey import LINED, Surveys
from bessemer.app.files import File
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.console.asker import asker
from bessemer.console.copying import ApiCall
from bessemer.console.file_view import LineView
from bessemer.console.rendering import page
from bessemer.core.errors import InvalidInput, PayloadTooLarge
from bessemer.core.principal import Principal

LISTED = 50
HEAD_BYTES = 20_000
_FORM_BYTES = 64 * 1024  # what a form has besides its file

PURPOSES = {
    "fine-tune": "to learn from: chats, preferences or prompts, one a line",
    "evals": "items of an eval, one a line",
    "batch": "requests of a batch, one a line",
    "user_data": "anything else",
    "fine-tune-results": "the losses of a job",
    "batch_output": "the answers of a batch",
}


class FilePages:
    """The routes of files over one platform."""

    def __init__(self, platform: Platform, surveys: Surveys) -> None:
        self._platform, self._surveys = platform, surveys

    def index(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose") or None
        asked = PageRequest(limit=LISTED, after=request.query_params.get("after"))
        found, has_more = files.list_files(self._platform, asker(request), asked, purpose)
        return page(
            request,
            "files.html",
            rows=found,
            purpose=purpose,
            purposes=PURPOSES,
            uploaded=[name for name in PURPOSES if name in files.UPLOADED],
            has_more=has_more,
            is_first=asked.after is None,
            calls=_calls_of_list(purpose),
        )

    def show(self, request: Request) -> Response:
        file = self._get(request)
        if file.purpose not in LINED:
            return self._show(request, file, head=_head(file))
        survey = self._surveys.of(file)
        line = whole_number(request, "line")
        number = survey.page_of_line(line) if line else whole_number(request, "page") or 1
        lines = [LineView(one) for one in survey.page(number)]
        return self._show(request, file, survey=survey, number=number, lines=lines, line=line)

    def content(self, request: Request) -> Response:
        file = self._get(request)
        media_type = "application/octet-stream"  # never a page of ours
        return FileResponse(file.path, filename=file.filename, media_type=media_type)

    async def upload(self, request: Request) -> Response:
        principal = asker(request)
        principal.require(files.WRITE_SCOPE)
        _refuse_by_length(request)
        async with request.form(max_files=1, max_fields=8) as form:
            sent, purpose = form.get("file"), form.get("purpose")
            if not isinstance(sent, UploadFile) or not sent.filename:
                raise InvalidInput("no file was chosen", param="file")
            file = await run_in_threadpool(self._keep, principal, sent, str(purpose))
        return RedirectResponse(f"/files/{file.id}", status_code=303)

    def delete(self, request: Request) -> Response:
        files.delete(self._platform, asker(request), request.path_params["file_id"])
        return RedirectResponse("/files", status_code=303)

    def _get(self, request: Request) -> File:
        return files.get(self._platform, asker(request), request.path_params["file_id"])

    def _show(self, request: Request, file: File, **facts: Any) -> Response:
        told: dict[str, Any] = {
            "survey": None,
            "head": None,
            "lines": [],
            "number": 1,
            "line": None,
            **facts,
        }
        return page(request, "file.html", file=file, calls=_calls_of(file), **told)

    def _keep(self, principal: Principal, sent: UploadFile, purpose: str) -> File:
        if purpose not in files.UPLOADED:
            raise InvalidInput(f"nothing is uploaded for {purpose[:100]!r}", param="purpose")
        with files.writer(self._platform) as written:
            shutil.copyfileobj(sent.file, written, 1 << 20)
            known = cast(files.Purpose, purpose)
            return files.add(self._platform, principal, sent.filename or "", known, written)


class Head(NamedTuple):
    """How a file of other kinds begins. `text` is None where it is no text."""

    text: str | None
    left_out_bytes: int


def whole_number(request: Request, name: str) -> int | None:
    """A parameter of the address that counts from 1; None where it is not given.

    Raises:
        InvalidInput: it is no such number.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) < 1:
        raise InvalidInput(f"{name} counts from 1; it is {text[:40]!r}", param=name)
    return int(text)


def _calls_of_list(purpose: str | None) -> list[ApiCall]:
    query = {"purpose": purpose} if purpose else {}
    words = ["--purpose", purpose] if purpose else []
    sent_for = purpose if purpose in files.UPLOADED else "fine-tune"
    return [
        ApiCall(
            "List the files", "GET", "/v1/files", query=query, python="files.list",
            cli=["files", "list", *words, "--json"],
        ),
        ApiCall(
            "Upload a file",
            "POST",
            "/v1/files",
            body={"purpose": sent_for},
            files={"file": "chats.jsonl"},
            python="files.create",
            cli=["files", "add", "chats.jsonl", "--purpose", sent_for, "--json"],
        ),
    ]  # fmt: skip


def _calls_of(file: File) -> list[ApiCall]:
    path, ids = "/v1/files/{file_id}", [file.id]
    return [
        ApiCall("Look at the file", "GET", path, ids, python="files.retrieve",
                cli=["files", "get", file.id, "--json"]),
        ApiCall("Read its content", "GET", f"{path}/content", ids, python="files.content",
                answer="text", cli=["files", "get", file.id]),
        ApiCall("Delete the file", "DELETE", path, ids, python="files.delete",
                cli=["files", "delete", file.id]),
    ]  # fmt: skip


def _head(file: File) -> Head:
    with file.path.open("rb") as opened:
        data = opened.read(HEAD_BYTES)
    left_out = file.bytes - len(data)
    if b"\0" in data:
        return Head(None, left_out)
    try:
        return Head(data.decode(errors="strict" if not left_out else "ignore"), left_out)
    except UnicodeDecodeError:
        return Head(None, left_out)


def _refuse_by_length(request: Request) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise InvalidInput("the upload does not say how long it is")
    if int(length) > files.MAX_FILE_BYTES + _FORM_BYTES:
        raise PayloadTooLarge(
            f"the upload has {int(length):,} bytes; a file may have {files.MAX_FILE_BYTES:,}",
            next_step="split it, or import it on the machine: bessemer data import",
        )
