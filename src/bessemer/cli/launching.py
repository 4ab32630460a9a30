"""Start what was asked for: by the server if one runs on this home, by itself if not."""

from __future__ import annotations

import click

from bessemer.cli.following import follow
from bessemer.core.events import Event
from bessemer.core.runs import RunFolder


def start_and_follow(
    platform: object, run: RunFolder, *, detach: bool = False, quiet: bool = False
) -> Event | None:
    """Start a submitted run and show it to its end; None if it goes on without us."""
    from bessemer.app import jobs
    from bessemer.app.platform import Platform

    assert isinstance(platform, Platform)
    if platform.home.is_locked():
        _say(f"{run.run_id} is queued; the server starts it when its turn comes", quiet)
    else:
        jobs.start_detached(platform, run)
        _say(f"{run.run_id} started", quiet)
    if detach:
        return None
    try:
        last = follow(run, quiet=quiet)
    except KeyboardInterrupt:
        click.echo(
            f"\n{run.run_id} goes on without you\n"
            f"  follow it: bessemer runs {run.run_id} --follow\n"
            f"  stop it:   bessemer runs {run.run_id} --cancel",
            err=True,
        )
        return None
    jobs.harvest(platform)
    return last


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text, err=True)
