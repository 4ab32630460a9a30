"""`bessemer replay`: prove that an answer is what its model says to its request."""

from __future__ import annotations

from typing import Any

import click

from bessemer.cli.output import json_option, print_json, short


@click.command()
@click.argument("request_id")
@click.option("--forget", is_flag=True, help="Delete what is recorded of it, and compute nothing.")
@json_option
def command(request_id: str, forget: bool, as_json: bool) -> int:
    """Compute a recorded answer again and compare every bit.

    A server that was started with --deterministic records its answers. REQUEST_ID is the
    x-request-id of one, or the id in its body. Exit status 1 if a token or a log-probability is
    not what it was.

    \b
    Example:
      bessemer replay req_01jd3k5v8w2x4y6z8a0c2e4g6j
    """
    from dataclasses import asdict

    import msgspec

    from bessemer.app import replaying
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        principal = platform.local_principal()
        if forget:
            count = replaying.forget(platform, principal, request_id)
            if as_json:
                print_json({"request_id": request_id, "forgotten": count})
            else:
                click.echo(f"forgot {count} of {request_id}")
            return 0
        found = replaying.replay(platform, principal, request_id)
    if as_json:
        facts = [{"identical": each.identical, **asdict(each)} for each in found]
        print_json(msgspec.to_builtins(facts))
    else:
        for each in found:
            _tell(each)
    return 0 if all(each.identical for each in found) else 1


def _tell(replayed: Any) -> None:
    what = f"{replayed.model} {short(replayed.model_digest)}, {replayed.conditions['precision']}"
    if replayed.identical:
        verdict = click.style("identical", fg="green")
        click.echo(f"{verdict}: {replayed.tokens} tokens, digest {replayed.digest}")
    else:
        different = replayed.difference
        verdict = click.style("different", fg="red")
        click.echo(f"{verdict} from token {different.place} of {replayed.tokens} on")
        click.echo(f"  then {_token(different.then)}")
        click.echo(f"  now  {_token(different.now)}")
    click.echo(f"  {replayed.request_id}, {what}, threads {replayed.conditions['threads']}")
    for name, (then, now) in replayed.changed.items():
        click.echo(f"  {name}: {then} then, {now} now")
    if not replayed.identical and not replayed.changed:
        click.echo(
            "  processor, versions, precision and threads are those of then, so nothing explains"
            " it: look at the machine"
        )


def _token(token: Any) -> str:
    return "nothing: the answer has ended" if token is None else f"{token.id} at {token.logprob!r}"
