"""`bessemer doctor`: what this machine has, and what will work."""

from __future__ import annotations

from dataclasses import asdict

import click

from bessemer.cli.output import json_option, print_facts, print_json, size


@click.command()
@json_option
@click.option("--no-measure", is_flag=True, help="Skip the second of matrix products.")
def command(as_json: bool, no_measure: bool) -> None:
    """Say what this machine has and what will work on it.

    Cores, memory, disk, PyTorch, the best matrix-product speed in both precisions (measured), a
    GPU if there is one.
    """
    from bessemer.app.machine import examine
    from bessemer.core.home import Home

    machine = examine(Home.find(), measure=not no_measure)
    if as_json:
        print_json({**asdict(machine), "verdicts": [asdict(v) for v in machine.verdicts()]})
        return
    speed = "not measured"
    if machine.bf16_gflops and machine.fp32_gflops:
        speed = f"bf16 {machine.bf16_gflops:.0f}, fp32 {machine.fp32_gflops:.0f} GFLOP/s"
    print_facts(
        [
            ("python", f"{machine.python} on {machine.system}"),
            ("processor", f"{machine.processor}, {machine.cores} cores to use"),
            ("memory", f"{size(machine.memory_available_bytes)} of {size(machine.memory_bytes)}"),
            ("disk", f"{size(machine.disk_free_bytes)} free at {machine.home}"),
            ("torch", machine.torch or "not installed"),
            ("matrix peak", speed),
            ("GPU", machine.accelerator or "none"),
            ("chromium", machine.chromium or "not found (only browser tests need it)"),
            (
                "bubblewrap",
                machine.bubblewrap or "not found (only running generated code needs it)",
            ),
        ]
    )
    click.echo()
    for verdict in machine.verdicts():
        mark = click.style("yes", fg="green") if verdict.works else click.style("no ", fg="yellow")
        click.echo(f"{mark}  {verdict.what}: {verdict.why}")
