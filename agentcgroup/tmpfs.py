"""Files in memory.  What is written to tmpfs, /dev/shm above all, is charged to the cgroup that its writer was in; when that is removed,
to the cgroups above, until the file is.  How much that is, ``cgroup.tmpfs`` says; this names the files.
"""

import ctypes
import itertools
import os
import stat
import struct
from collections.abc import Sequence

from agentcgroup.text import clean
from agentcgroup.units import format_size

PLACES = ("/dev/shm", "/tmp")
"""Where programs put such files."""
_MOST_LOOKED_AT = 500
_MOST_NAMED = 3
_LEAST_BYTES = 1 << 20
_LONGEST_MOUNTINFO = 256 << 10
_OPENAT2 = 437
_NO_XDEV, _NO_SYMLINKS = 1, 4
_HOW = struct.pack("=3Q", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _NO_XDEV | _NO_SYMLINKS)
_libc = ctypes.CDLL(None, use_errno=True)

File = tuple[str, int]
"""Its path, cleaned, and how much memory it takes, in bytes."""


def files_of(pid: int, since: float, places: Sequence[str] = PLACES) -> list[File]:
    """The largest files in memory that the user of a process wrote since a moment (seconds since the epoch).

    Only of file systems that the process shares with us: one in a container has others.
    """
    found: list[File] = []
    try:
        user = os.stat(f"/proc/{pid}").st_uid
        theirs = _tmpfs_of(pid)
    except OSError:
        return found
    for place in places:
        try:
            if os.stat(place).st_dev == theirs.get(place):
                found += _files_in(place, user, since)
        except OSError:
            continue
    return sorted(found, key=lambda file: -file[1])[:_MOST_NAMED]


def words(files: Sequence[File]) -> str:
    """``/dev/shm/a 240M, /tmp/b 3M``"""
    return ", ".join(f"{path} {format_size(size)}" for path, size in files)


def _tmpfs_of(pid: int) -> dict[str, int]:
    """The tmpfs mounts of a process, by where they are: the device numbers."""
    found = {}
    with open(f"/proc/{pid}/mountinfo", "rb") as opened:
        for line in opened.read(_LONGEST_MOUNTINFO).splitlines():
            words = line.split()
            if b"-" in words[:-1] and words[words.index(b"-") + 1] == b"tmpfs":
                major, _, minor = words[2].partition(b":")
                found[os.fsdecode(words[4])] = os.makedev(int(major), int(minor))
    return found


def _files_in(place: str, user: int, since: float) -> list[File]:
    found = []
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(folder) as entries:
            for name in [os.fsencode(entry.name) for entry in itertools.islice(entries, _MOST_LOOKED_AT)]:
                about = _look(folder, name)
                if about is None or not stat.S_ISREG(about.st_mode) or about.st_uid != user or about.st_ctime < since:
                    continue
                if (size := about.st_blocks * 512) >= _LEAST_BYTES:
                    found.append((clean(os.fsencode(place) + b"/" + name, 80), size))
    finally:
        os.close(folder)
    return found


def _look(folder: int, name: bytes) -> os.stat_result | None:
    """A file of this file system, never what somebody mounted over it: that may hang."""
    descriptor = _libc.syscall(_OPENAT2, folder, name, _HOW, len(_HOW))
    if descriptor < 0:
        return None
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
