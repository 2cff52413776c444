"""Files that are written where others may write, too: a report in the folder of whoever is looked at."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

_THROUGH = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
"""Folders that belong to the kernel or to root: what is there is written to, never replaced."""


def write_anew(file: Path, data: bytes, mode: int = 0o644) -> None:
    """Make a file with this content, instead of what has its name; a link of that name goes, and what it leads to stays.

    A device is written to, by whatever path it was given: root must not lose /dev/null.

    The new file is complete or not there.  Raises OSError.
    """
    if file.parent in _THROUGH or _is_device(file):
        file.write_bytes(data)
        return
    # A name of its own, made exclusively, and only its descriptor used: the folder's owner may put something else there meanwhile.
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name[:64]}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            os.fchmod(opened.fileno(), mode)
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _is_device(file: Path) -> bool:
    """Whether it is a device itself, as only root can make one; a link to one is a link."""
    try:
        return stat.S_ISCHR(file.lstat().st_mode)
    except OSError:
        return False
