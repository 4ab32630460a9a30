"""The pages of projects: the list with the organization's people, and one project.

On a project's page is who may come in: its keys, its service accounts, its people. A secret is on
the page that makes it, once, and on no other.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bessemer.app import members, people, project_keys, projects, service_accounts
from bessemer.app.keys import NewKey
from bessemer.app.paging import PageRequest
from bessemer.app.platform import Platform
from bessemer.app.signing_in import acting_in, projects_of
from bessemer.console.asker import asker
from bessemer.console.forms import Form, posted
from bessemer.console.guard import cookie
from bessemer.console.project_view import (
    LISTED,
    ROLES,
    ProjectView,
    calls_of_list,
    calls_of_project,
    days,
    may_change,
)
from bessemer.console.rendering import page
from bessemer.console.sessions import Sessions
from bessemer.core.errors import NotFound
from bessemer.core.principal import Principal


class ProjectPages:
    """The routes of projects over one platform. All are for worker threads."""

    def __init__(self, platform: Platform, sessions: Sessions) -> None:
        self._platform, self._sessions = platform, sessions

    def routes(self) -> list[Route]:
        one = "/projects/{project_id}"
        changes = {
            "/projects": self.create,
            "/people": self.add_person,
            f"{one}/work": self.work_in,
            f"{one}/archive": self.archive,
            f"{one}/keys": self.create_key,
            f"{one}/keys/{{key_id}}/revoke": self.revoke_key,
            f"{one}/accounts": self.create_account,
            f"{one}/accounts/{{account_id}}/delete": self.delete_account,
            f"{one}/people": self.add_member,
            f"{one}/people/{{person_id}}/role": self.set_role,
            f"{one}/people/{{person_id}}/remove": self.remove_member,
        }
        return [
            Route("/projects", self.index),
            Route(one, self.show),
            *(Route(path, posted(act), methods=["POST"]) for path, act in changes.items()),
        ]

    def index(self, request: Request) -> Response:
        me = asker(request)
        mine = projects_of(self._platform, me)
        found, has_more, everybody, more_people = mine, False, None, False
        if me.holds(projects.READ_SCOPE):
            asked = PageRequest(LISTED, "asc", request.query_params.get("after"))
            found, has_more = projects.list_projects(self._platform, me, asked, archived=True)
            asked = PageRequest(LISTED, "asc", request.query_params.get("after_person"))
            everybody, more_people = people.list_people(self._platform, me, asked)
        return page(
            request,
            "projects.html",
            calls=calls_of_list(me),
            projects=found,
            has_more=has_more,
            mine={project.id for project in mine},
            people=everybody,
            more_people=more_people,
        )

    def create(self, request: Request, form: Form) -> Response:
        made = projects.create(self._platform, asker(request), form.text("name"))
        return _to(made.id)

    def add_person(self, request: Request, form: Form) -> Response:
        people.add(self._platform, asker(request), form.text("email"), form.text("role"))
        return RedirectResponse("/projects#people", status_code=303)

    def work_in(self, request: Request, form: Form) -> Response:
        """From here on every page shows this project."""
        project_id = request.path_params["project_id"]
        if all(mine.id != project_id for mine in projects_of(self._platform, asker(request))):
            raise NotFound(f"there is no project {project_id[:100]!r} that you can work in")
        self._sessions.work_in(request.cookies.get(cookie(request)), project_id)
        return _to(project_id)

    def archive(self, request: Request, form: Form) -> Response:
        projects.archive(self._platform, asker(request), request.path_params["project_id"])
        return RedirectResponse("/projects", status_code=303)

    def show(self, request: Request) -> Response:
        return self._show(request)

    def create_key(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        made = project_keys.create(
            self._platform,
            there,
            project_id,
            form.text("name"),
            form.all("scope"),
            days(form.text("expires")),
        )
        return self._show(request, made)

    def revoke_key(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        project_keys.delete(self._platform, there, project_id, request.path_params["key_id"])
        return _to(project_id, "keys")

    def create_account(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        made = service_accounts.create(self._platform, there, project_id, form.text("name"))
        return self._show(request, made.key)

    def delete_account(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        account_id = request.path_params["account_id"]
        service_accounts.delete(self._platform, there, project_id, account_id)
        return _to(project_id, "accounts")

    def add_member(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        who, role = form.text("person"), form.text("role")
        members.add(self._platform, there, project_id, who, role)
        return _to(project_id, "people")

    def set_role(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        person_id, role = request.path_params["person_id"], form.text("role")
        members.set_role(self._platform, there, project_id, person_id, role)
        return _to(project_id, "people")

    def remove_member(self, request: Request, form: Form) -> Response:
        there, project_id = self._there(request)
        members.remove(self._platform, there, project_id, request.path_params["person_id"])
        return _to(project_id, "people")

    def _there(self, request: Request) -> tuple[Principal, str]:
        """The person with the rights that they have in the project of the address."""
        project_id = request.path_params["project_id"]
        return acting_in(self._platform, asker(request), project_id), project_id

    def _show(self, request: Request, made: NewKey | None = None) -> Response:
        there, project_id = self._there(request)
        project = projects.get(self._platform, there, project_id)
        view = ProjectView.read(self._platform, there, project, request.query_params)
        return page(
            request,
            "project.html",
            calls=calls_of_project(there, project, view.keys),
            view=view,
            made=made,
            may=may_change(there, project),
            is_here=asker(request).project_id == project_id,
            roles=ROLES,
            now_ms=time.time() * 1000,
        )


def _to(project_id: str, part: str = "") -> Response:
    anchor = f"#{part}" if part else ""
    return RedirectResponse(f"/projects/{project_id}{anchor}", status_code=303)
