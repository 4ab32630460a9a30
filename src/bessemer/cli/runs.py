"""`bessemer runs`: look at runs and steer them."""

from __future__ import annotations

from typing import Any

import click

from bessemer.cli.output import ago, duration, json_option, print_facts, print_json, print_rows


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--follow", "how", flag_value="follow", help="Show it until it ends.")
@click.option("--cancel", "how", flag_value="cancel", help="Stop it, after a checkpoint.")
@click.option("--events", "how", flag_value="events", help="Print what it said, a JSON a line.")
@json_option
def command(run_id: str | None, how: str | None, as_json: bool) -> None:
    """List runs; show, follow or cancel one.

    A run is asked for with `bessemer train` or `bessemer eval`. One that died, failed or was
    cancelled goes on with `bessemer train --resume RUN`.

    \b
    Examples:
      bessemer runs
      bessemer runs run_01jd3k5v8w2x4y6z8a0c2e4g6j --follow
    """
    from bessemer.app import jobs
    from bessemer.app.platform import Platform

    if run_id is None and how is not None:
        raise click.UsageError(f"--{how} needs the run's id: bessemer runs RUN --{how}")
    with Platform.open() as platform:
        jobs.harvest(platform)
        principal = platform.local_principal()
        if run_id is None:
            _list(jobs.list_runs(platform, principal), as_json)
            return
        run = jobs.get_run(platform, principal, run_id)
        if how == "cancel":
            jobs.cancel(platform, principal, run_id)
            click.echo(f"{run_id} was asked to stop")
        elif how == "events":
            click.echo(
                run.folder.events.read_text() if run.folder.events.exists() else "", nl=False
            )
        elif how == "follow":
            from bessemer.cli.following import follow

            follow(run.folder)
            jobs.harvest(platform)
            _show(jobs.get_run(platform, principal, run_id), as_json)
        else:
            _show(run, as_json)


def _list(found: list[Any], as_json: bool) -> None:
    if as_json:
        print_json([_facts(run) for run in found])
        return
    rows = [
        (run.id, run.kind, run.state, _progress(run), ago(run.created_ms), run.name)
        for run in found
    ]
    header = ("RUN", "KIND", "STATE", "PROGRESS", "ASKED FOR", "NAME")
    print_rows(header, rows, "no runs yet; bessemer train recipes/teach.toml")


def _show(run: Any, as_json: bool) -> None:
    if as_json:
        print_json(_facts(run))
        return
    facts = [("run", run.id), ("kind", run.kind), ("name", run.name), ("state", run.state)]
    if run.note:
        facts.append(("note", run.note))
    facts += [("progress", _progress(run)), ("folder", str(run.folder.path))]
    for kind in ("validation", "result"):
        if (event := run.folder.last(kind)) is not None:
            facts.append((kind, _words(event)))
    print_facts(facts)
    if sample := run.folder.last("sample"):
        click.echo(f"\nsample:\n{sample.get('text', '')}")


def _facts(run: Any) -> dict[str, Any]:
    last = {kind: run.folder.last(kind) for kind in ("plan", "step", "validation", "result")}
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "state": run.state,
        "note": run.note,
        "created_ms": run.created_ms,
        "attempts": run.attempts,
        "folder": str(run.folder.path),
        **last,
    }


def _progress(run: Any) -> str:
    for kind in ("step", "progress"):
        event = run.folder.last(kind)
        if event is None:
            continue
        done, total = event.get("done"), event.get("total")
        if kind == "step":
            done, total = event["step"], (run.folder.last("plan") or {}).get("steps")
        text = f"{done}/{total}" if total else f"{done}"
        if run.state == "running" and event.get("eta_s") is not None:
            text += f", ETA {duration(event['eta_s'])}"
        return text
    return "-"


def _words(event: dict[str, Any]) -> str:
    shown = {key: value for key, value in event.items() if key not in ("t", "kind")}
    if "sentences" in shown:
        return "\n".join(shown["sentences"])
    return ", ".join(f"{key} {value}" for key, value in shown.items())
