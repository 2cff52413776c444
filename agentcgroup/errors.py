"""The one exception that users see: what failed, why, what to do."""

import errno
import os

USAGE = 2
"""Exit code for bad input and for a machine that can't do what was asked."""


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
