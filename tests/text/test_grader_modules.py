"""What a grader's Python may import: found out before it is run, and there when it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bessemer.core.errors import InvalidInput
from bessemer.core.sandbox import available
from bessemer.text.criteria import PythonCheck
from bessemer.text.criterion_checks import grade
from bessemer.text.grader_modules import OFFERED, packages_of, require_modules

MISSING = "rapidfuzz"


@pytest.mark.parametrize(
    "source",
    [
        "import json, collections.abc\nfrom numpy.linalg import norm",
        "from . import x",
        f"try:\n    import {MISSING}\nexcept ImportError:\n    import re",
        f"def grade(sample, item):\n    return 'import {MISSING}'",
    ],
)
def test_what_is_there_may_be_imported(source: str) -> None:
    require_modules(source, "source")


def test_what_is_not_there_is_named_before_anything_is_run() -> None:
    with pytest.raises(InvalidInput, match=r"'a\.source' imports 'requests', which graders do not"):
        require_modules("import requests.adapters", "a.source")
    with pytest.raises(InvalidInput, match=r"beside the standard library they have .*numpy"):
        require_modules("def grade(s, i):\n    import os_\n", "source")
    late = f"try:\n    pass\nexcept ValueError:\n    from {MISSING} import fuzz"
    with pytest.raises(InvalidInput, match=r"'rapidfuzz', which is not installed") as caught:
        require_modules(late, "source")
    assert caught.value.next_step == "pip install rapidfuzz, where the server runs"


def test_packages_come_with_what_they_need() -> None:
    assert packages_of("import json") == ()
    (site,) = {path.parent for path in packages_of("import numpy")}
    assert site == Path(np.__file__).parents[1]
    assert Path(np.__file__).parent in packages_of("def f():\n    from numpy import mean")
    names = {path.name for path in packages_of("try:\n    import jsonschema\nexcept E: pass")}
    assert {"jsonschema", "referencing", "attr"} <= names
    assert set(OFFERED) > {MISSING, "numpy"}


def test_numpy_is_there_in_the_sandbox_and_nothing_that_was_not_asked_for() -> None:
    if reason := available():
        pytest.skip(reason)
    source = """
import numpy as np
def grade(sample, item):
    try:
        import msgspec
    except ImportError:
        return np.linalg.norm(np.array(item["vector"]) @ np.eye(2))
"""
    check = PythonCheck(name="norm", source=source, pass_threshold=5)
    assert grade(check, {"item": {"vector": [3, 4]}, "sample": {}}) == (5.0, True, None)
