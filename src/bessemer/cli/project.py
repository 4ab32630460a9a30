"""`bessemer project`: projects."""

from __future__ import annotations

import click

from bessemer.cli.output import ago, json_option, print_json, print_rows


@click.group()
def command() -> None:
    """Create, list, rename and archive projects.

    Each project has its own files, runs, models and keys, out of sight in every other. Verbs in the
    terminal work in the default project; `give` lets another one ask a model that is here.
    """


@command.command()
@click.argument("name")
@json_option
def create(name: str, as_json: bool) -> None:
    """Make a project.

    \b
    Example:
      bessemer project create research
    """
    from bessemer.app import projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        made = projects.create(platform, platform.local_principal(), name)
    if as_json:
        print_json(made._asdict())
        return
    click.echo(f"{made.id} ({made.name}); it may ask no model yet")
    click.echo(f"a model for it: bessemer project give {made.name!r} MODEL")
    click.echo(f"a key for it: bessemer key create --project {made.name!r}")


@command.command(name="list")
@click.option("--archived", is_flag=True, help="Those that ended as well.")
@json_option
def list_projects(archived: bool, as_json: bool) -> None:
    """List projects, oldest first."""
    from bessemer.app import projects
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    asked = PageRequest(limit=10_000, order="asc")
    with Platform.open() as platform:
        me = platform.local_principal()
        found, _ = projects.list_projects(platform, me, asked, archived=archived)
    if as_json:
        print_json([project._asdict() for project in found])
        return
    rows = [
        (one.id, one.name, "archived" if one.archived_ms else "active", ago(one.created_ms))
        for one in found
    ]
    print_rows(("ID", "NAME", "STATE", "MADE"), rows, "no projects; bessemer project create NAME")


@command.command()
@click.argument("project")
@click.argument("model")
def give(project: str, model: str) -> None:
    """Let PROJECT, by its name or id, ask MODEL of the default project, by the same name.

    \b
    Example:
      bessemer project give research smollm2-135m-instruct
    """
    from bessemer.app import models, projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me = platform.local_principal()
        found = models.find_model(platform, me, model)
        there = projects.acting_in(platform, me, project)
        models.register(platform, there, found.name, found.artifact)
        name = projects.get(platform, me, there.project_id).name
    click.echo(f"{name} may ask {found.name}; bessemer key create --project {name!r}")


@command.command()
@click.argument("project")
@click.argument("name")
def rename(project: str, name: str) -> None:
    """Give PROJECT, by its name or id, another NAME."""
    from bessemer.app import projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me = platform.local_principal()
        found = projects.rename(platform, me, projects.find(platform, me, project).id, name)
    click.echo(f"{found.id} is called {found.name}")


@command.command()
@click.argument("project")
def archive(project: str) -> None:
    """End PROJECT, by its name or id: its keys answer nobody. Nothing is deleted."""
    from bessemer.app import projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me = platform.local_principal()
        ended = projects.archive(platform, me, projects.find(platform, me, project).id)
    click.echo(f"{ended.id} ({ended.name}) is archived")
