"""What the daemon says to systemd: that it is ready, that it lives, and its log with fields.

Both are datagrams to sockets that systemd names or has; without systemd, nothing is said, and the log goes to stderr.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

from agentcgroup.text import LONGEST_LINE, clean

_JOURNAL = Path("/run/systemd/journal/socket")
_FIRST_KEPT = 3
"""SD_LISTEN_FDS_START"""
_PRIORITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6}


def notify(state: str) -> None:
    """Tell the service manager, as sd_notify(3) has it: ``READY=1``, ``WATCHDOG=1``, ``STATUS=...``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def keep(name: str, descriptors: Mapping[str, list[int]]) -> None:
    """Give the service manager descriptors to keep for the next process (FDSTORE), under ``name`` and what each is."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\0" + address[1:] if address.startswith("@") else address)
        for what, group in descriptors.items():
            socket.send_fds(sender, [f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}.{what}".encode()], group)


def kept() -> dict[str, dict[str, list[int]]]:
    """The descriptors that an earlier process gave to ``keep``, by its name and what each is; ours to close."""
    found: dict[str, dict[str, list[int]]] = {}
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return found
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    for at in range(int(os.environ.pop("LISTEN_FDS", "0"))):
        os.set_inheritable(_FIRST_KEPT + at, False)
        name, _, what = (names[at] if at < len(names) else "").partition(".")
        found.setdefault(name, {}).setdefault(what, []).append(_FIRST_KEPT + at)
    return found


def forget(name: str, descriptors: Mapping[str, list[int]]) -> None:
    """What was kept under this name is of no use any more."""
    for what, group in descriptors.items():
        notify(f"FDSTOREREMOVE=1\nFDNAME={name}.{what}")
        for descriptor in group:
            os.close(descriptor)


def watchdog_s() -> float | None:
    """How often the service manager wants to hear ``WATCHDOG=1``, in seconds; None: never."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    return int(wanted) / 2e6 if wanted.isdigit() and int(wanted) else None


def log(message: str, level: str = "info", **fields: str) -> None:
    """One entry of the log; in the journal, ``fields`` become fields of their own (``session`` is AGENTCGROUP_SESSION)."""
    message, fields = clean(message, LONGEST_LINE), {name: clean(value) for name, value in fields.items()}
    if "JOURNAL_STREAM" in os.environ and _JOURNAL.exists():
        entry = {"MESSAGE": message, "PRIORITY": str(_PRIORITIES[level]), "SYSLOG_IDENTIFIER": "agentcgroup",
                 **{f"AGENTCGROUP_{name.upper()}": value for name, value in fields.items()}}  # fmt: skip
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"".join(_field(name, value) for name, value in entry.items()), str(_JOURNAL))
            return
    said = "".join(f" {name}={value}" for name, value in fields.items())
    print(f"agentcgroup: {message}{said}", file=sys.stderr, flush=True)


def _field(name: str, value: str) -> bytes:
    """A field in the journal's own format: with its length, so that it may hold any text."""
    data = value.encode(errors="replace")
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
