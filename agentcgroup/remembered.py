"""What was worked out for a command line, remembered within a bound on entries and on bytes.  Pure."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

Result = TypeVar("Result")

ENTRIES = 256
LONGEST = 4096
"""Characters of a command line that is remembered; longer ones are rare, and 256 of the longest would be 30 MB."""


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function`` of a command line (and more), whose results for short ones are kept."""
    kept = lru_cache(maxsize=ENTRIES)(function)

    def call(argv: tuple[str, ...], *more: object) -> Result:
        return (kept if sum(map(len, argv)) <= LONGEST else function)(argv, *more)

    return call
