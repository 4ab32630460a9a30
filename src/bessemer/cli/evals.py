"""`bessemer evals`: OpenAI's Evals API from the command line, and the way from there to here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from bessemer.cli.output import ago, json_option, print_facts, print_json, print_rows

POLL_S = 0.5


@click.group()
def command() -> None:
    """Bring evals in, run them, and compare their runs."""


@command.command(name="import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def import_(files: tuple[Path, ...], as_json: bool) -> None:
    """Take evals, runs and results that were exported from OpenAI.

    FILES hold objects as OpenAI's API answers them (evals, runs, output items), or what the
    official client made of them: one object, a list, one a line, or within objects of your own.
    They may come in any order and in several goes; what is here already is not taken again. What
    could not be taken is said.

    \b
    Example:
      bessemer evals import eval.json runs.json output_items.jsonl
    """
    from bessemer.app.eval_exports import read_objects
    from bessemer.app.eval_importing import import_objects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        found = import_objects(platform, platform.local_principal(), read_objects(files))
    if as_json:
        print_json(found._asdict())
        return
    for old, new in {**found.evals, **found.runs}.items():
        click.echo(f"{old} -> {new}")
    click.echo(
        f"{len(found.evals)} evals, {len(found.runs)} runs and {found.outputs} results taken"
    )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


@command.command(name="list")
@json_option
def list_evals(as_json: bool) -> None:
    """List evals, newest first."""
    from bessemer.app import eval_definitions
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        principal = platform.local_principal()
        found, _ = eval_definitions.list_evals(platform, principal, PageRequest(limit=100))
    if as_json:
        print_json([_facts(one) for one in found])
        return
    rows = [(one.id, ", ".join(one.labels), ago(one.created_ms), one.name) for one in found]
    header = ("EVAL", "CRITERIA", "MADE", "NAME")
    print_rows(header, rows, "no evals yet; POST /v1/evals, or bessemer evals import FILE")


@command.command()
@click.argument("eval_id", metavar="EVAL")
@click.argument("run_id", metavar="[RUN]", required=False)
@json_option
def show(eval_id: str, run_id: str | None, as_json: bool) -> None:
    """Show an eval with its runs, or the report of one run."""
    from bessemer.app import eval_definitions, eval_runs
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        principal = platform.local_principal()
        definition = eval_definitions.get(platform, principal, eval_id)
        if run_id is not None:
            run = eval_runs.get(platform, principal, eval_id, run_id)
            _show_run(run, definition.labels, as_json)
            return
        runs, _ = eval_runs.list_runs(platform, principal, eval_id, PageRequest(limit=100))
    if as_json:
        shown = [_run_facts(run, definition.labels) for run in runs]
        print_json({**_facts(definition), "runs": shown})
        return
    print_facts(
        [("eval", definition.id), ("name", definition.name)]
        + [("criterion", f"{label}: {type(one).__name__}")
           for label, one in zip(definition.labels, definition.criteria, strict=True)]
    )  # fmt: skip
    rows = [
        (run.id, run.state, f"{run.tally.done}/{run.total}", ago(run.created_ms), run.name)
        for run in runs
    ]
    click.echo()
    empty = f"no runs yet; bessemer evals run {eval_id} ITEMS --model MODEL --prompt TEXT"
    print_rows(("RUN", "STATE", "ITEMS", "ASKED FOR", "NAME"), rows, empty)


@command.command()
@click.argument("eval_id", metavar="EVAL")
@click.argument("items", required=False, type=click.Path(path_type=Path))
@click.option("--like", "like", metavar="RUN", help="Items and messages of an earlier run.")
@click.option("--model", help="What answers; without it the lines' own samples are judged.")
@click.option("--prompt", help="What it is asked, with {{item.FIELD}} in it.")
@click.option("--system", help="What it is told before.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer.")
@click.option("--name", help="What to call the run; by default the model's name.")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on.")
@json_option
def run(
    eval_id: str,
    items: Path | None,
    like: str | None,
    model: str | None,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
    name: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Run an eval over ITEMS (JSONL), or over those of an earlier run.

    Each line is {"item": {...}}, with "sample": {"output_text": ...} where no model is asked. The
    server does the run (bessemer up), also when this verb has gone.

    \b
    Examples:
      bessemer evals run EVAL items.jsonl --model MODEL --prompt "Translate: {{item.text}}"
      bessemer evals run EVAL --like RUN --model MODEL
    """
    from bessemer.app import eval_definitions, eval_submission
    from bessemer.app.platform import Platform

    if (items is None) == (like is None):
        raise click.UsageError("name a file of items, or a run with --like, and not both")
    if like is not None and (prompt or system or max_tokens):
        raise click.UsageError("--like takes --prompt, --system and --max-tokens from that run")
    with Platform.open() as platform:
        principal = platform.local_principal()
        if like is not None:
            sent = _source_like(platform, eval_id, like, model)
        else:
            assert items is not None
            sent = _source_of(platform, items, model, prompt, system, max_tokens)
        from bessemer.gateway.eval_sampling import plan_of

        plan, data_source = plan_of(sent)
        made = eval_submission.submit(
            platform, principal, None, eval_id, plan, data_source, name=name
        )
        labels = eval_definitions.get(platform, principal, eval_id).labels
        click.echo(f"{made.id} is queued", err=True)
        if not platform.home.is_locked():
            click.echo("no server runs on this home, which would do it: bessemer up", err=True)
        elif not detach:
            made = _follow(platform, made)
        _show_run(made, labels, as_json)


@command.command()
@click.argument("eval_id", metavar="EVAL")
@click.argument("baseline")
@click.argument("candidate")
@json_option
def compare(eval_id: str, baseline: str, candidate: str, as_json: bool) -> None:
    """Hold the run CANDIDATE against the run BASELINE, item by item.

    Better, worse, or cannot tell, for all criteria together and for each; with a 95% interval of
    the difference on the items that both runs judged.
    """
    import msgspec

    from bessemer.app import eval_reports
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        principal = platform.local_principal()
        found = eval_reports.compare(platform, principal, eval_id, baseline, candidate)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    for sentence in found.sentences:
        click.echo(sentence)
    click.echo(f"{found.changed_count} items came out differently", err=True)


def _source_of(
    platform: Any,
    items: Path,
    model: str | None,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
) -> Any:
    """The items as a file of the API, and what is asked about them."""
    from bessemer.app import files
    from bessemer.app.eval_plans import EvalMessage
    from bessemer.app.eval_sources import FileId
    from bessemer.gateway.eval_sampling import ChatSampling, Completions, Jsonl, Template

    if model is None and (prompt or system or max_tokens):
        raise click.UsageError("--prompt, --system and --max-tokens need a --model to ask")
    if model is not None and prompt is None:
        raise click.UsageError('--model needs a --prompt, such as "Translate: {{item.text}}"')
    if not items.is_file():
        raise click.UsageError(f"{items} is not a file")
    data = items.read_bytes()
    file = files.add_bytes(platform, platform.local_principal(), items.name, "evals", data)
    if model is None:
        return Jsonl(FileId(file.id))
    said = [("system", system), ("user", prompt)]
    messages = [EvalMessage(role, text) for role, text in said if text is not None]  # type: ignore[arg-type]
    return Completions(
        source=FileId(file.id),
        model=model,
        input_messages=Template(messages),
        sampling_params=ChatSampling(max_completion_tokens=max_tokens) if max_tokens else None,
    )


def _source_like(platform: Any, eval_id: str, run_id: str, model: str | None) -> Any:
    import msgspec

    from bessemer.app import eval_runs
    from bessemer.app.eval_sources import FileContent
    from bessemer.core.errors import InvalidInput
    from bessemer.gateway.eval_sampling import DataSource, ItemReference, Jsonl

    earlier = eval_runs.get(platform, platform.local_principal(), eval_id, run_id)
    try:
        sent = msgspec.json.decode(earlier.data_source, type=DataSource)
    except msgspec.ValidationError as fault:
        raise InvalidInput(
            f"the data source of {run_id} cannot be used again: {fault}",
            next_step="bessemer evals run EVAL ITEMS --model MODEL --prompt TEXT",
        ) from None
    if model is not None:
        if isinstance(sent, Jsonl):
            raise click.UsageError(f"{run_id} judged samples that were there; it asks no --model")
        # What was stored is asked by its own messages.
        asked = sent.input_messages or ItemReference("item.input")
        sent = msgspec.structs.replace(sent, model=model, input_messages=asked)
    if earlier.plan is None and not isinstance(sent.source, FileContent):
        sent = _with_items_of_results(platform, earlier, sent)
    how = None if isinstance(sent, Jsonl) else sent.sampling_params
    if how is not None and how.reasoning_effort not in (None, "none"):
        click.echo(f"without its reasoning effort {how.reasoning_effort!r}", err=True)
        how = msgspec.structs.replace(how, reasoning_effort=None)
        sent = msgspec.structs.replace(sent, sampling_params=how)
    return sent


def _with_items_of_results(platform: Any, earlier: Any, sent: Any) -> Any:
    """The data source of an imported run, whose file or log is not here, with a file that is."""
    import msgspec

    from bessemer.app.eval_again import items_of
    from bessemer.app.eval_sources import FileId
    from bessemer.gateway.eval_sampling import ItemReference, Jsonl

    asks = not isinstance(sent, Jsonl) and sent.model is not None
    principal = platform.local_principal()
    file, count = items_of(platform, principal, earlier, with_samples=not asks)
    click.echo(f"{count} of {earlier.total} items, as the results of {earlier.id} tell", err=True)
    if not asks:
        return Jsonl(FileId(file.id))
    # What was stored is asked by its own messages.
    asked = sent.input_messages or ItemReference("item.input")
    return msgspec.structs.replace(sent, source=FileId(file.id), input_messages=asked)


def _follow(platform: Any, made: Any) -> Any:
    from bessemer.app import eval_runs

    principal = platform.local_principal()
    shown = -1
    while made.state in eval_runs.OPEN:
        if made.tally.done != shown:
            shown = made.tally.done
            click.echo(f"{shown} of {made.total} items", err=True)
        time.sleep(POLL_S)
        made = eval_runs.get(platform, principal, made.eval_id, made.id)
    return made


def _show_run(run: Any, labels: list[str], as_json: bool) -> None:
    from bessemer.app.eval_reports import report_of

    if as_json:
        print_json(_run_facts(run, labels))
        return
    report = report_of(run, labels)
    click.echo(report.sentence)
    rows = [
        (one.criterion, str(one.pass_rate), f"{one.errored}" if one.errored else "-")
        for one in report.criteria
    ]
    print_rows(("CRITERION", "PASS RATE", "ERRORS"), rows, "no criteria")


def _facts(definition: Any) -> dict[str, Any]:
    return {
        "id": definition.id,
        "name": definition.name,
        "criteria": definition.labels,
        "metadata": dict(definition.metadata),
        "created_ms": definition.created_ms,
    }


def _run_facts(run: Any, labels: list[str]) -> dict[str, Any]:
    import msgspec

    from bessemer.app.eval_reports import report_of

    return {
        "id": run.id,
        "eval_id": run.eval_id,
        "name": run.name,
        "model": run.model,
        "state": run.state,
        "metadata": dict(run.metadata),
        "report": msgspec.to_builtins(report_of(run, labels)),
        "usage": msgspec.to_builtins(run.tally.models),
        "error": run.error.message or None,
    }
