"""Tests in the sandbox: what passes is counted one by one, and ending early is not passing."""

from __future__ import annotations

import pytest

from bessemer.core.sandbox import Limits, available
from bessemer.core.unit_tests import passed

DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(autouse=True, scope="module")
def _sandbox() -> None:
    if reason := available():
        pytest.skip(reason)


def test_each_test_is_counted() -> None:
    tests = ["assert double(2) == 4", "assert double(3) == 5", "assert double('a') == 'aa'"]
    assert passed(DOUBLE, tests) == [True, False, True]


def test_a_test_sees_what_those_before_it_made() -> None:
    assert passed(DOUBLE, ["def check(f):\n    assert f(1) == 2", "check(double)"]) == [True, True]


@pytest.mark.parametrize(
    "code",
    [
        "def double(x):",  # no Python
        "raise SystemExit(0)",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "def double(x):\n    import os; os._exit(0)",
        "def double(x):\n    raise SystemExit",
        "print('0 0\\n0 1')",
        "import sys; sys.stdout.write('0\\n' * 10**6)",
        "def double(x):\n    while True: pass",
    ],
)
def test_ending_early_is_not_passing(code: str) -> None:
    tests = ["assert double(2) == 4", "assert double(3) == 6"]
    assert passed(code, tests, Limits(cpu_s=1)) == [False, False]


def test_what_passed_before_a_hang_counts() -> None:
    code = "def double(x):\n    while x == 3: pass\n    return 2 * x"
    tests = ["assert double(2) == 4", "assert double(3) == 6", "assert double(4) == 8"]
    assert passed(code, tests, Limits(cpu_s=1)) == [True, False, False]


def test_printing_changes_nothing() -> None:
    code = "def double(x):\n    print('noise' * 10**6)\n    return 2 * x"
    assert passed(code, ["assert double(2) == 4"]) == [True]
