"""What a run of pytest in a guest leaves behind: which tests failed, and how long they took.

``python3 scripts/guest/results.py failed FILE`` prints the failed tests, one a line;
``python3 scripts/guest/results.py flaky FILE AGAIN`` a line for each with its two durations.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def failed(report: Path) -> dict[str, float]:
    """Seconds by test (as pytest is told to run it) of each that failed or had an error, from a JUnit file."""
    return {name: seconds for name, seconds, bad in _cases(report) if bad}


def flaky(first: Path, second: Path) -> list[str]:
    """A line for each test that failed in ``first``, with what it took there and in ``second``."""
    again = {name: seconds for name, seconds, _ in _cases(second)}
    return [f"{name} (failed after {seconds:.0f} s, passed in {again[name]:.0f} s)" for name, seconds in failed(first).items()]


def _cases(report: Path) -> list[tuple[str, float, bool]]:
    cases = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        bad = case.find("failure") is not None or case.find("error") is not None
        cases.append((name, float(case.get("time", 0)), bad))
    return cases


if __name__ == "__main__":
    what, *files = sys.argv[1:]
    lines = list(failed(Path(files[0]))) if what == "failed" else flaky(Path(files[0]), Path(files[1]))
    print("\n".join(lines))
