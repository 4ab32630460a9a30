"""`bessemer targets`: other servers that answer by names here."""

from __future__ import annotations

import click

from bessemer.cli.output import json_option, print_json, print_rows


@click.group()
def command() -> None:
    """Let other servers answer by names here.

    A partner is any OpenAI-compatible server: vLLM, llama.cpp's, a provider, another Bessemer.
    `bessemer up` serves it beside the models of this home, and learns of changes by itself.
    """


@command.command()
@click.argument("name")
@click.option("--url", required=True, help="With its /v1, as OpenAI's clients take it.")
@click.option("--model", required=True, help="What the model is called over there.")
@click.option("--key-env", help="Environment variable of `bessemer up` that has the API key.")
def add(name: str, url: str, model: str, key_env: str | None) -> None:
    """Let NAME be answered by a model of another server.

    The key itself is never stored: only its variable's name is.

    \b
    Example:
      bessemer targets add big --url http://10.0.0.7:8001/v1 --model qwen3-8b --key-env BIG_KEY
    """
    from bessemer.app.platform import Platform
    from bessemer.app.targets import Target, add_target

    with Platform.open() as platform:
        target = Target(url=url, model=model, key_env=key_env)
        add_target(platform, platform.local_principal(), name, target)
    click.echo(f"{name} is answered by {model} at {url}")


@command.command(name="list")
@json_option
def list_targets(as_json: bool) -> None:
    """List partners by the names that they have here."""
    import msgspec

    from bessemer.app.platform import Platform
    from bessemer.app.targets import read_targets

    with Platform.open() as platform:
        found = read_targets(platform.home)
    if as_json:
        print_json([{"name": name, **msgspec.structs.asdict(found[name])} for name in found])
        return
    rows = [(name, one.model, one.url, one.key_env or "none") for name, one in found.items()]
    empty = "no partners yet; bessemer targets add NAME --url URL --model MODEL"
    print_rows(("NAME", "MODEL THERE", "URL", "KEY IN"), rows, empty)


@command.command()
@click.argument("name")
def remove(name: str) -> None:
    """End a partner's name here."""
    from bessemer.app.platform import Platform
    from bessemer.app.targets import remove_target

    with Platform.open() as platform:
        remove_target(platform, platform.local_principal(), name)
    click.echo(f"{name} is no longer a partner")
