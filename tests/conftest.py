"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bessemer.access.keys import on_secret
from tests.leaks import LEAKS

pytest_plugins = ("tests.postgres.plugin",)

on_secret.append(LEAKS.told)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What a test logged, and what it and its processes wrote to standard error."""
    LEAKS.look(f"the log of {report.nodeid}", report.caplog)
    LEAKS.look(f"the standard error of {report.nodeid}", report.capstderr)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The run fails when one of its secrets is in a log, an error, an event or a database."""
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    LEAKS.look_through(factory.getbasetemp())
    if LEAKS.found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEAKS.found:
        terminalreporter.section("secrets were found where none may be", red=True)
        for place in LEAKS.found:
            terminalreporter.line(place)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def default_model_folder(request: pytest.FixtureRequest) -> Path:
    """The default model's Hugging Face folder, for reading only.

    `BESSEMER_TEST_MODEL` names a folder; without it the product's own pull brings the pinned
    model into pytest's cache, once. Wrong bytes fail the tests; no network skips them.
    """
    from bessemer.app.catalog import DEFAULT_MODEL

    return _pinned(request, DEFAULT_MODEL, "BESSEMER_TEST_MODEL")


@pytest.fixture(scope="session")
def sentence_model_folder(request: pytest.FixtureRequest) -> Path:
    """The pinned sentence model's folder, likewise; `BESSEMER_TEST_SENTENCE_MODEL` names one."""
    from bessemer.app.catalog import SENTENCE_MODEL

    return _pinned(request, SENTENCE_MODEL, "BESSEMER_TEST_SENTENCE_MODEL")


def _pinned(request: pytest.FixtureRequest, name: str, variable: str) -> Path:
    if chosen := os.environ.get(variable):
        return Path(chosen)
    from bessemer.app.platform import Platform
    from bessemer.app.pull import pull
    from bessemer.core.errors import Missing, NotFound
    from bessemer.core.home import Home

    home = Home(request.config.cache.mkdir("default-model"))  # of both
    with pytest.MonkeyPatch.context() as patch:
        # This home outlives the session, and so must its rows.
        patch.setenv("BESSEMER_DATABASE_URL", f"sqlite:///{home.database}")
        platform = Platform.open(home)
    with platform:
        try:
            return pull(platform, platform.local_principal(), name).path
        except (Missing, NotFound) as fault:
            pytest.skip(f"{name} cannot be had: {fault}")
