"""Isolation, for every route there is: whose key may do what, and what is out of sight.

The routes are those of `resource_routes`, so a new one is walked by itself; if the walk does not
know how to make the object that its path speaks of, it says what to add to `objects.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from bessemer.app.platform import Platform
from bessemer.gateway.resources import resource_routes
from bessemer.gateway.routes import Route
from tests.gateway.calling import Answer, call
from tests.gateway.objects import (
    BODIES,
    MAKERS,
    NEWEST,
    QUERIES,
    READING_POSTS,
    TOKENS_ONLY,
    owner_of_first,
)
from tests.gateway.organization import World, world

# Routes are only looked at here: no handler runs, so none misses its platform. The one that ends
# the first project comes last.
ROUTES = sorted(
    resource_routes(cast(Platform, None)), key=lambda route: route.path.endswith("/archive")
)
ID = re.compile(r"\{(\w+)\}")


def _name(route: Route) -> str:
    return f"{route.method} {route.path}"


every_route = pytest.mark.parametrize("route", ROUTES, ids=_name)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("isolation")) as found:
        yield found


def asked(world: World, route: Route) -> tuple[str, list[str]]:
    """The route's path with the ids of new objects of the first project, and those ids."""
    me, ids = owner_of_first(world), []
    path = route.path
    NEWEST.clear()
    for name in ID.findall(route.path):
        if name not in MAKERS:
            pytest.fail(
                f"{_name(route)}: add a maker of {name!r} to MAKERS in {__package__}.objects"
            )
        ids.append(MAKERS[name](world, me))
        path = path.replace(f"{{{name}}}", ids[-1])
    if (query := QUERIES.get((route.method, route.path))) is not None:
        path += query(world, me)
    world.ring.refresh()
    return path, ids


def send(world: World, route: Route, path: str, key: str | None) -> Answer:
    body: Any = BODIES.get((route.method, route.path))
    if body is None and route.method == "POST":
        body = {}
    return call(world.app, path, body, method=route.method, key=key)


def is_write(route: Route) -> bool:
    return route.method != "GET" and (route.method, route.path) not in READING_POSTS


@every_route
def test_without_a_key_or_with_one_that_ended_nothing_is_said(here: World, route: Route) -> None:
    path = ID.sub("any", route.path)
    for key in (None, here.expired, "sk-bsm-" + "A" * 43):
        answer = send(here, route, path, key)
        assert answer.status == 401 and answer.error["code"] == "invalid_api_key"


@every_route
def test_a_reader_reads_and_does_not_write(here: World, route: Route) -> None:
    path, _ = asked(here, route)
    status = send(here, route, path, here.reader).status
    if is_write(route):
        assert status == 403, "a reader wrote; require the scope before anything else is looked at"
    elif route.path.startswith("/v1/organization/") and "{project_id}" not in route.path:
        assert status == 403, "only its owners and members read what the organization has"
    else:
        assert status == 200


@every_route
def test_another_projects_key_sees_nothing(here: World, route: Route) -> None:
    path, ids = asked(here, route)
    organizations = route.path.startswith("/v1/organization/")
    if ids:
        # Who has no right in the organization is told so, before whether there is such an object.
        allowed = (403, 404) if organizations else (404,)
        answer = send(here, route, path, here.others)
        assert answer.status in allowed, f"{answer.body!r}; a body for {_name(route)} in BODIES?"
    elif organizations:
        assert send(here, route, path, here.others).status == 403
    else:
        for make in MAKERS.values():
            make(here, owner_of_first(here))
        listed = send(here, route, path, here.others)
        assert listed.json().get("data", []) == [], "the second project has nothing"


@every_route
def test_the_owner_is_let_through(here: World, route: Route) -> None:
    """Or the refusals above would prove nothing: the object is there, and the request is right."""
    path, _ = asked(here, route)
    answer = send(here, route, path, here.mine)
    if (route.method, route.path) in TOKENS_ONLY:
        assert answer.status == 403
    elif (route.method, route.path) in BODIES or route.method != "POST":
        assert answer.status in (200, 201), answer.body
    else:
        assert answer.status in (200, 400), answer.body
