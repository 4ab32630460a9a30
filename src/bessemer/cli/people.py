"""`bessemer people`: the people of the organization, and their roles."""

from __future__ import annotations

import click

from bessemer.cli.acting import wait_for_server
from bessemer.cli.output import ago, json_option, print_json, print_rows

_PROJECT = "In this project, by its name or id, in place of the organization."


@click.group()
def command() -> None:
    """Let people in, give them roles, take them out.

    Roles are owner, member and reader, of the organization and of each project; the role bounds
    what every key of a person may do.
    """


@command.command()
@click.argument("email")
@click.option("--role", default="reader", show_default=True, help="owner, member or reader.")
@click.option("--name", help="What they are called. Default: the part before the @.")
@json_option
def add(email: str, role: str, name: str | None, as_json: bool) -> None:
    """Let a person in, without an invite.

    \b
    Example:
      bessemer people add ada@example.org --role member
    """
    from bessemer.app import people
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        made = people.add(platform, platform.local_principal(), email, role, name)
    if as_json:
        print_json(made._asdict())
        return
    click.echo(f"{made.id} ({made.email}) is in, as {made.role} of the organization")


@command.command()
@click.argument("email")
@click.option("--role", default="reader", show_default=True, help="owner or reader.")
@click.option("--project", help="Let them into this project too, as a member.")
@json_option
def invite(email: str, role: str, project: str | None, as_json: bool) -> None:
    """Make a one-time token that lets a person in. No mail is sent: hand it over yourself.

    \b
    Example:
      bessemer people invite ada@example.org --project research
    """
    from bessemer.app import invites, projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me = platform.local_principal()
        into = project and [invites.Into(projects.find(platform, me, project).id, "member")]
        made, token = invites.create(platform, me, email, role, into or [])
        wait_for_server(platform.home)
    if as_json:
        print_json({"id": made.id, "email": made.email, "role": made.role, "token": token})
        return
    click.echo(token)
    click.echo(
        f"{made.id} for {made.email}, for a week; POST it as the key to"
        " /v1/organization/invites/accept; it is not shown again",
        err=True,
    )


@command.command(name="list")
@click.option("--project", help=_PROJECT)
@json_option
def list_people(project: str | None, as_json: bool) -> None:
    """List people and their roles, oldest first."""
    from bessemer.app import members, people, projects
    from bessemer.app.paging import PageRequest
    from bessemer.app.platform import Platform

    asked = PageRequest(limit=10_000, order="asc")
    with Platform.open() as platform:
        me = platform.local_principal()
        if project is None:
            found, _ = people.list_people(platform, me, asked)
        else:
            place = projects.find(platform, me, project).id
            inside, _ = members.list_members(platform, me, place, asked)
            found = [member.person._replace(role=member.role) for member in inside]
    if as_json:
        print_json([person._asdict() for person in found])
        return
    rows = [(one.id, one.email, one.name, one.role, ago(one.created_ms)) for one in found]
    empty = "nobody was let in; bessemer people role --help says how"
    print_rows(("ID", "EMAIL", "NAME", "ROLE", "ADDED"), rows, empty)


@command.command()
@click.argument("email")
@click.argument("role", type=click.Choice(("owner", "member", "reader")))
@click.option("--project", help=_PROJECT + " Lets them in if they are not yet.")
def role(email: str, role: str, project: str | None) -> None:
    """Give EMAIL the ROLE of owner, member or reader; servers notice within a second."""
    from bessemer.app import members, people, projects
    from bessemer.app.platform import Platform
    from bessemer.core.errors import NotFound

    with Platform.open() as platform:
        me = platform.local_principal()
        person = people.find(platform, me, email)
        if project is None:
            people.set_role(platform, me, person.id, role)
        else:
            place = projects.find(platform, me, project).id
            try:
                members.set_role(platform, me, place, person.id, role)
            except NotFound:
                members.add(platform, me, place, person.id, role)
    click.echo(f"{person.email} is {role} of {project or 'the organization'}")


@command.command()
@click.argument("email")
@click.option("--project", help="Only off this project's list, by its name or id.")
def remove(email: str, project: str | None) -> None:
    """Take EMAIL out, with all their keys. What they made stays."""
    from bessemer.app import members, people, projects
    from bessemer.app.platform import Platform

    with Platform.open() as platform:
        me = platform.local_principal()
        person = people.find(platform, me, email)
        if project is None:
            people.remove(platform, me, person.id)
        else:
            members.remove(platform, me, projects.find(platform, me, project).id, person.id)
    click.echo(f"{person.email} is out of {project or 'the organization'}")
