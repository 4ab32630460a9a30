"""What the form of a new job holds, as the call that starts it.

The page begins with what the server put into the form; from then on htmx posts the form at each
change and takes the new text out of the answer (`copied.html`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bessemer.app.fine_tuning import Request
from bessemer.console.copying import ApiCall
from bessemer.console.forms import Form
from bessemer.console.job_form import Choices, body_of, request_of
from bessemer.core.errors import InvalidInput


def creating(request: Request) -> ApiCall:
    """The call that starts the job."""
    body = body_of(request)
    return ApiCall(
        "Start this job", "POST", "/v1/fine_tuning/jobs", body=body,
        python="fine_tuning.jobs.create",
    )  # fmt: skip


def copied(form: Form) -> dict[str, Any]:
    """`calls` of what the form holds, or the `fault` in it: never the text of another request."""
    try:
        request = request_of(form)
        request.method.checked()
        return {"calls": [creating(request)], "fault": None}
    except InvalidInput as fault:
        return {"calls": [], "fault": fault}


def calls_of_form(values: Mapping[str, str], found: Choices) -> list[ApiCall]:
    """Of the form as a browser shows it: where nothing is chosen it takes the first there is."""
    if not found.models or not found.files:
        return []
    models, ids = found.models, [file.id for file in found.files]
    chosen = {
        "model": values["model"] if values["model"] in models else models[0],
        "training_file": values["training_file"] if values["training_file"] in ids else ids[0],
        "validation_file": values["validation_file"] if values["validation_file"] in ids else "",
    }
    held = Form({name: [text] for name, text in {**values, **chosen}.items()})
    calls: list[ApiCall] = copied(held)["calls"]
    return calls
