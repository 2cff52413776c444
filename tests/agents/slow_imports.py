"""Imported by a program under test: with IMPORTS_WAIT_FOR=FILE, what shows a summary can't be imported until that file is there."""

import os
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path


class Waiting(MetaPathFinder):
    """Finds nothing, in its own time."""

    def find_spec(self, name: str, *_: object) -> None:
        while name == "rich.console" and not Path(os.environ["IMPORTS_WAIT_FOR"]).exists():
            time.sleep(0.02)


if "IMPORTS_WAIT_FOR" in os.environ:
    sys.meta_path.insert(0, Waiting())
