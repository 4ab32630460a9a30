"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


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
    with Platform.open(home) as platform:
        try:
            return pull(platform, platform.local_principal(), name).path
        except (Missing, NotFound) as fault:
            pytest.skip(f"{name} cannot be had: {fault}")
