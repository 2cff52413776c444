"""Text that comes from outside, made fit to be shown: program names, arguments, environments, names of cgroups.  Pure.

Whoever chooses a program's name must not write to the terminal, the log or the spreadsheet of whoever looks at it.  What is
printed, logged or kept goes through here: one line, nothing but printable characters, of bounded length, and always
encodable as UTF-8.
"""

from collections.abc import Sequence
from typing import Any, TextIO

LONGEST = 500
"""Characters of a command as it is shown."""
LONGEST_LINE = 2000
"""Characters of one line of a log."""
_MOST_WORDS = 64
_LONGEST_WORD = 1000
_LONGEST_ARGV = 4096
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet run a cell; the wide forms, too."""


def clean(text: str | bytes, limit: int = LONGEST) -> str:
    """One line of at most ``limit`` printable characters; whatever else was there shows as ``\N{REPLACEMENT CHARACTER}``.

    Not printable are control characters (escape sequences begin with one), marks that turn the direction of writing, bytes
    that are no UTF-8.  Runs of white space, line ends included, become one space.  The cost is bounded by ``limit``.
    """
    seen = 4 * limit + 100
    cut = len(text) > seen
    if isinstance(text, bytes):
        text = text[:seen].decode(errors="replace")
    line = " ".join(text[:seen].split())
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return shorten(line + ("…" if cut else ""), limit)


def shorten(text: str, width: int) -> str:
    """Cut at ``width`` characters, the last one a sign that there was more."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"[:width]


def clean_lines(text: str, limit: int = LONGEST_LINE, most: int = 200) -> str:
    """A text of our own that has several lines: each of them cleaned."""
    return "\n".join(
        line[: len(line) - len(line.lstrip(" "))][:limit] + clean(line, limit) for line in text.split("\n", most)[:most]
    )


def clean_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """The words of a command line as they are kept: the first ones, each cleaned; the last one says how many more there were."""
    words: list[str] = []
    for word in argv[:_MOST_WORDS]:
        words.append(clean(word, _LONGEST_WORD))
        if sum(map(len, words)) > _LONGEST_ARGV:
            break
    left = len(argv) - len(words)
    return (*words, *([f"… {left} more"] if left else []))


def clean_data(value: Any, limit: int = LONGEST_LINE) -> Any:
    """JSON-able data with every text in it cleaned, keys included."""
    if isinstance(value, str):
        return clean(value, limit)
    if isinstance(value, dict):
        return {clean(str(key), limit): clean_data(one, limit) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_data(one, limit) for one in value]
    return value


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: a text that begins like one gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = clean(value, LONGEST_LINE)
    return f"'{text}" if text.startswith(_FORMULA) else text


def tolerate(stream: TextIO | None) -> None:
    """Let a stream show what its encoding lacks as ``?``, rather than raise: the terminal may know nothing but ASCII."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
