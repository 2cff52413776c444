"""Maps of loaded BPF objects, and the ring buffer, through libbpf."""

import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Callable
from ctypes import byref, c_uint, c_ulonglong
from typing import Any

from agentcgroup.errors import errno_words
from agentcgroup.kernel.libbpf import SAMPLE, BpfError, library

_MAP_ID_AT, _MAP_SIZE_AT = 4, 16
"""Offsets of id and max_entries in struct bpf_map_info."""
_ANY, _EXISTING = 0, 2
"""BPF_ANY, BPF_EXIST"""
_ACTED_AT = 64
"""Offset of the reader's own mark in the first page of a ring buffer: another cache line than the kernel's."""


class RingBuffer:
    """The reading end of a ring buffer map.

    Its first page belongs to the reader and outlives it with the map, and only its first number means something to the kernel: up to
    where records are taken out.  So the page keeps, too, up to where the reader has acted upon them, for a reader that comes after.
    """

    def __init__(self, descriptor: int, deliver: Callable[[bytes], None]) -> None:
        """``deliver`` gets a copy of each record; what it raises comes out of ``consume``.

        What an earlier reader took out and did not act upon is delivered again.
        """
        self._lib = library()
        self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._taken, self._acted = c_ulonglong.from_buffer(self._page, 0), c_ulonglong.from_buffer(self._page, _ACTED_AT)
        with mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE) as produced:
            self.overtaken = not self._step_back(_map_info(descriptor, _MAP_SIZE_AT), produced)
        """Whether it was overwritten before it could be delivered again."""
        self._deliver = deliver
        self._error: BaseException | None = None
        self._ended_at = 0
        self._callback = SAMPLE(self._sample)
        self._buffer = self._lib.ring_buffer__new(descriptor, self._callback, None, None)
        if not self._buffer:
            raise BpfError("the ring buffer can't be mapped", errno_words(OSError(ctypes.get_errno(), "")))

    def fileno(self) -> int:
        """Readable when records wait."""
        return int(self._lib.ring_buffer__epoll_fd(self._buffer))

    @property
    def position(self) -> int:
        """Up to where records were taken out; of one that is closed, up to where they had been then."""
        return self._taken.value if self._buffer else self._ended_at

    def acted(self, position: int) -> None:
        """Nobody needs the records before ``position`` again."""
        if self._buffer:
            self._acted.value = position

    def _step_back(self, size: int, produced: mmap.mmap) -> bool:
        taken, self._taken.value = self._taken.value, self._acted.value
        # From here on the kernel overwrites nothing of it; what it wrote before is known now.
        if struct.unpack_from("=Q", produced)[0] - self._acted.value <= size:
            return True
        self._taken.value = taken
        return False

    def consume(self) -> None:
        """Deliver the records that wait now."""
        if not self._buffer:
            return
        self._lib.ring_buffer__consume(self._buffer)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _sample(self, _: Any, data: int, size: int) -> int:
        try:
            self._deliver(ctypes.string_at(data, size))
        except BaseException as error:  # an exception must not pass through the C library
            self._error = error
            return -errno.EINTR
        return 0

    def close(self) -> None:
        if self._buffer:
            self._ended_at = self._taken.value
            self._lib.ring_buffer__free(self._buffer)
            self._buffer = None
            del self._taken, self._acted  # they hold the page
            self._page.close()


class Map:
    """A loaded map whose keys and values are bytes."""

    def __init__(self, descriptor: int, value_size: int) -> None:
        self._lib, self._descriptor, self._size = library(), descriptor, value_size

    @classmethod
    def by_id(cls, number: int, value_size: int) -> "Map":
        """A map that another process loaded.  Raises BpfError when it is gone."""
        descriptor = library().bpf_map_get_fd_by_id(number)
        if descriptor < 0:
            raise BpfError(f"there is no BPF map {number}", errno_words(OSError(-descriptor, os.strerror(-descriptor))))
        return cls(descriptor, value_size)

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def put(self, key: bytes, value: bytes) -> None:
        """Raises OSError."""
        if code := self._lib.bpf_map_update_elem(self._descriptor, key, value, _ANY):
            raise OSError(-code, os.strerror(-code))

    def replace(self, key: bytes, value: bytes) -> None:
        """Change an entry; one that isn't there is no error, and stays out."""
        self._lib.bpf_map_update_elem(self._descriptor, key, value, _EXISTING)

    def get(self, key: bytes) -> bytes | None:
        """The value, or None when there is none."""
        value = ctypes.create_string_buffer(self._size)
        return value.raw if self._lib.bpf_map_lookup_elem(self._descriptor, key, value) == 0 else None


def map_id(descriptor: int) -> int:
    """The number by which another process finds a map."""
    return _map_info(descriptor, _MAP_ID_AT)


def _map_info(descriptor: int, at: int) -> int:
    info, size = ctypes.create_string_buffer(at + 4), c_uint(at + 4)
    library().bpf_obj_get_info_by_fd(descriptor, info, byref(size))
    return int.from_bytes(info.raw[at:], sys.byteorder)
