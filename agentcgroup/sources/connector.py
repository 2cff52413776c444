"""Process events from the kernel's process connector (netlink), through pyroute2.

pyroute2 opens, binds and subscribes the socket; its decoder builds a dictionary for every message of
the whole machine, so the three kinds that matter are unpacked from the bytes here.  A filter in the
kernel drops the rest, and threads, before they wake us.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.sources import Event, Execed, Exited, Forked, Lost, Source

_FORK, _EXEC, _EXIT = 0x1, 0x2, 0x80000000
# struct nlmsghdr (16 bytes), struct cn_msg (20), struct proc_event: what, cpu, timestamp_ns, then
# the event's own fields; include/uapi/linux/{netlink,connector,cn_proc}.h
_HEADER = struct.Struct("=36xIIQ")
_BODY = struct.Struct("=IIII")
_BODY_AT = _HEADER.size
_BUFFER_BYTES = 16 << 20
"""About 100,000 events: a second of the fastest fork storm measured on two cores."""
_BATCH = 512
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33


class Connector(Source):
    """The process connector of this machine.  Needs the initial namespaces, and before Linux 6.6 CAP_NET_ADMIN."""

    name = "process connector"

    def __init__(self) -> None:
        from pyroute2.netlink.connector.cn_proc import ProcEventSocket

        try:
            self._netlink = ProcEventSocket()
            self._netlink.bind()
            self._netlink.control(listen=True)
        except OSError as error:
            raise AgentCgroupError(
                "the kernel's process connector is not available",
                errno_words(error),
                "run as root outside containers, on a kernel with CONFIG_PROC_EVENTS",
            ) from None
        self._socket = socket.socket(fileno=os.dup(self._netlink.fileno()))
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:  # without CAP_NET_ADMIN, from Linux 6.6 on: as much as the host allows
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        _attach_filter(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self, deliver: Callable[[Event], None]) -> None:
        for _ in range(_BATCH):
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                deliver(Lost())
                continue
            what, _, at_ns = _HEADER.unpack_from(message)
            _, second, third, fourth = _BODY.unpack_from(message, _BODY_AT)
            # Process ids come as (thread, process) pairs; the filter left only processes.
            if what == _FORK:
                deliver(Forked(second, fourth, at_ns))
            elif what == _EXEC:
                deliver(Execed(second, at_ns))
            elif what == _EXIT:
                deliver(Exited(second, third, at_ns))

    def close(self) -> None:
        self._socket.close()
        self._netlink.close()


def _attach_filter(sock: socket.socket) -> None:
    """Drop in the kernel what is neither fork, exec nor exit of a whole process.

    Classic BPF, loads are big-endian: constants are written as their bytes lie in the message.
    """

    def native(value: int) -> int:
        return int.from_bytes(value.to_bytes(4, sys.byteorder), "big")

    load, compare, accept, drop = 0x20, 0x15, (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)
    what, body = 36, _BODY_AT
    swap, equal = (0x07, 0, 0, 0), 0x1D  # X = A; jump if A == X
    program = [
        (load, 0, 0, what),
        (compare, 10, 0, native(_EXEC)),
        (compare, 5, 0, native(_EXIT)),
        (compare, 0, 9, native(_FORK)),
        (load, 0, 0, body + 8),  # fork: child's thread id and process id
        swap,
        (load, 0, 0, body + 12),
        (equal, 4, 5, 0),
        (load, 0, 0, body),  # exit: thread id and process id
        swap,
        (load, 0, 0, body + 4),
        (equal, 0, 1, 0),
        accept,
        drop,
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
