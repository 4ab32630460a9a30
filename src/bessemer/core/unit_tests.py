"""Does this code pass these tests? Both run in the sandbox, in one interpreter.

    passed("def double(x): return 2 * x", ["assert double(2) == 4", "assert double(3) == 5"])
    # [True, False]

A test is Python that raises when the code is wrong. It sees what the code defined, and what the
tests before it did. Code that exits, hangs or prints does not thereby pass: each test that came to
its end is told through a descriptor of its own, under a word that only the judge knows. Code that
digs in its interpreter for that word can still lie; look at what scores high.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from bessemer.core.sandbox import Limits, run_python


def passed(code: str, tests: Sequence[str], limits: Limits | None = None) -> list[bool]:
    """For each test whether it came to its end. None does when the code itself fails.

    Raises:
        SandboxUnavailable: as `sandbox.run_python`.
    """
    word = secrets.token_hex(8)
    # As Python, not as JSON, whose import would take longer than most tests.
    outcome = run_python(_JUDGE, stdin=repr((code, list(tests), word)), limits=limits)
    told = {line for line in outcome.stdout.splitlines() if line.startswith(word)}
    return [f"{word} {number}" in told for number in range(len(tests))]


# Runs inside. The word is read from a file that is closed before the code is run, and stdout goes
# nowhere from then on, so that no flood of text can push a result out.
_JUDGE = """
def judge():
    import os
    with os.fdopen(os.dup(0)) as file:
        code, tests, word = eval(file.read())
    told = os.dup(1)
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    names = {"__name__": "answer"}
    exec(compile(code, "answer.py", "exec"), names)
    failed = None
    for number, test in enumerate(tests):
        try:
            exec(compile(test, f"test {number}", "exec"), names)
        except BaseException as fault:
            failed = fault
        else:
            os.write(told, f"{word} {number}\\n".encode())
    if failed is not None:
        raise failed

judge()
"""
