"""This program's own standard streams: there is always something to write to, and what can't be written breaks nothing.

``run`` is to be as invisible as it can be, so its own words may get lost, on a full disk or a closed pipe, but never change the exit code.
"""

import contextlib
import io
import os
import sys
from typing import TextIO

from agentcgroup.text import tolerate

_CANT_WRITE = 1
_BROKEN_PIPE = 128 + 13
"""As of a program that SIGPIPE ends, which Python ignores."""


def prepare() -> None:
    """To be called before any file is opened.

    A standard stream that is closed becomes /dev/null, for else the next file that is opened would be taken for it.  It is close-on-exec:
    an agent finds the stream as we did.  Characters that its encoding lacks are shown as ``?``.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdout = sys.stdout or _writer(1)
    sys.stderr = sys.stderr or _writer(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            tolerate(stream)
    if isinstance(sys.stdout, io.TextIOWrapper) and not isinstance(sys.stdout, _Stdout):
        out = sys.stdout
        sys.stdout = _Stdout(out.detach(), out.encoding, "replace", line_buffering=out.line_buffering)


class _Stdout(io.TextIOWrapper):
    """Remembers what went wrong, so that a full disk is not taken for a mistake of the program."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.error = error
            raise


def _writer(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", closefd=False)


def say(text: str) -> None:
    """A line on stderr, where that can be written."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def could_not_write(error: Exception) -> bool:
    """Whether this error came from writing to stdout."""
    return isinstance(sys.stdout, _Stdout) and sys.stdout.error is error


def finish(code: int) -> int:
    """Write out what waits; the exit code, which is another one where stdout could not be written and all went well else."""
    for stream, number in ((sys.stderr, 2), (sys.stdout, 1)):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            _discard(number)
            if number == 1:
                code = code or failed(error)
    return code


def failed(error: Exception) -> int:
    """What could not be written: says so unless nobody listens any more; the exit code."""
    if isinstance(error, BrokenPipeError):
        return _BROKEN_PIPE  # whoever read it has seen enough
    say(f"agentcgroup: the output could not be written: {getattr(error, 'strerror', None) or error}")
    return _CANT_WRITE


def _discard(number: int) -> None:
    """What is still in a stream's buffer goes nowhere: Python tries once more at its exit, and would change the exit code."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
