"""The one exception that users see: what failed, why, what to do."""

import errno
import os
import sys

from agentcgroup import stdio

USAGE = 2
"""Exit code for bad input and for a machine that can't do what was asked."""


FAULT = 70
"""Exit code for a mistake of this program itself (EX_SOFTWARE of sysexits.h)."""


class AgentCgroupError(Exception):
    """Something a user must hear about, in three parts.

    ``what`` failed, ``why`` (an errno in words where there is one), and what to ``do``.
    """

    exit_code = USAGE

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        super().__init__(what, why, do)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}\n  {self.do}" if self.do else text


def errno_words(error: OSError) -> str:
    """``ENOENT: No such file or directory``: the symbol to look up, the words to read."""
    number = error.errno or 0
    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"


def report_fault(error: BaseException) -> int:
    """Say in one line that this program has a fault, and where the details are; returns the exit code."""
    stdio.say(f"agentcgroup: {fault_words(error)}")
    return FAULT


def fault_words(error: BaseException) -> str:
    """What to tell of a fault of this program.

    The details go to a file of their own, or to stderr where AGENTCGROUP_DEBUG is set or stderr is the journal.
    """
    import traceback

    details = "".join(traceback.format_exception(error))
    if os.environ.get("AGENTCGROUP_DEBUG") or os.environ.get("JOURNAL_STREAM"):
        stdio.say(details.rstrip())
        where = "the lines above"
    elif file := _keep(details):
        where = f"the file {file}"
    else:
        where = "what it says with AGENTCGROUP_DEBUG=1 set"
    text = " ".join(str(error).split())[:200]
    return f"unexpected {type(error).__name__}: {text}\n  this is a fault of agentcgroup; please report it with {where}"


def _keep(details: str) -> str | None:
    """Write the details of a fault to a file that only this user can read; None where that can't be."""
    import tempfile

    try:
        descriptor, file = tempfile.mkstemp(prefix="agentcgroup-fault-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"{sys.argv}\npython {sys.version}\nkernel {os.uname().release}\n{details}")
    except OSError:
        return None
    return file
