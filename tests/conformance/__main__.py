"""Print the score that README shows; exit status 1 if something is not as it should be.

python -m tests.conformance [CYCLE ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance import cycles  # noqa: F401  # registers them
from tests.conformance.cycle import CYCLES
from tests.conformance.home import site
from tests.conformance.running import refusals, run
from tests.conformance.score import judge


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cycles", nargs="*", help="only these, by name; by default all")
    asked = parser.parse_args().cycles
    chosen = [each for each in CYCLES if not asked or each.name in asked]
    with (
        tempfile.TemporaryDirectory(prefix="bessemer-conformance-") as folder,
        site(Path(folder)) as here,
    ):
        refused = refusals(here.url)
        score = judge(run(here, chosen, refused), refused)
    print(score.text(), end="")
    return 1 if score.faults else 0


if __name__ == "__main__":
    sys.exit(main())
