"""Which processes of this host talk with each other, over Unix sockets or TCP: as /proc and sock_diag(7) say.

Unix sockets of another network namespace are not seen, TCP connections are those of the namespace that a process is in.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from itertools import islice

_MOST = 64
"""Processes that are looked at of each side, and descriptors of a process, and Unix sockets whose peer is asked for."""
_LARGEST_TABLE = 1 << 20
"""Bytes of a table of connections that are read."""
_ESTABLISHED = "01"
# include/uapi/linux/{netlink,sock_diag,unix_diag}.h
_SOCK_DIAG = 4
_BY_FAMILY, _REQUEST, _SHOW_PEER, _PEER = 20, 1, 4, 2
_HEADER, _ASKED, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBHIIIII"), struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HHI")
_NO_COOKIE = 0xFFFFFFFF
_PATIENCE_S = 0.1


def partners(processes: Collection[int], others: Mapping[int, Collection[int]]) -> set[int]:
    """Of ``others`` (by whatever number), those that have a process which is connected with one of ``processes``."""
    ours = _sockets_of(processes)
    if not ours:
        return set()
    theirs = {one: _sockets_of(pids) for one, pids in others.items()}
    peers = _unix_peers(ours) | _tcp_peers(processes, ours)
    return {one for one, inodes in theirs.items() if inodes & peers}


def _sockets_of(processes: Iterable[int]) -> set[int]:
    """The inode numbers of their sockets."""
    found = set()
    for pid in islice(processes, _MOST):
        with contextlib.suppress(OSError):
            for entry in islice(os.scandir(f"/proc/{pid}/fd"), _MOST):
                with contextlib.suppress(OSError):
                    leads_to = os.readlink(entry.path)
                    if leads_to.startswith("socket:["):
                        found.add(int(leads_to[8:-1]))
    return found


def _unix_peers(inodes: Iterable[int]) -> set[int]:
    """The other ends of those that are Unix sockets."""
    found = set()
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as diag:
        diag.settimeout(_PATIENCE_S)
        for inode in islice(inodes, _MOST):
            asked = _ASKED.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_PEER, _NO_COOKIE, _NO_COOKIE)
            diag.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST, 0, 0) + asked)
            answer = diag.recv(4096)
            at = _HEADER.size + _ANSWER.size
            if _HEADER.unpack_from(answer)[1] == _BY_FAMILY and len(answer) >= at + _ATTRIBUTE.size:
                _, kind, peer = _ATTRIBUTE.unpack_from(answer, at)
                if kind == _PEER:
                    found.add(peer)
    return found


def _tcp_peers(processes: Collection[int], inodes: Collection[int]) -> set[int]:
    """The other ends, on this host, of those that are TCP connections."""
    ends: dict[tuple[str, str], int] = {}
    peers = set()
    for kind in ("tcp", "tcp6"):
        for words in _table(next(iter(processes)), kind):
            # Of an IPv4 address in an IPv6 one, the last part is the address.
            local, remote = ((address[-8:] + port) for address, _, port in (word.partition(":") for word in words[1:3]))
            ends[local, remote] = int(words[9])
            if int(words[9]) in inodes:
                peers.add((remote, local))
    return {ends[one] for one in peers if one in ends}


def _table(pid: int, kind: str) -> list[list[str]]:
    """The connections of the network namespace that a process is in, as words of /proc/PID/net/tcp."""
    try:
        with open(f"/proc/{pid}/net/{kind}") as opened:
            lines = opened.read(_LARGEST_TABLE).splitlines()[1:]
    except OSError:
        return []
    rows = (line.split() for line in lines)
    return [words for words in rows if len(words) > 9 and words[3] == _ESTABLISHED]
