"""A file system whose files open, and never take what is written: what a hung FUSE or NFS mount does to who writes there.

``python3 hung_files.py FOLDER`` mounts it until it is killed.  The protocol is that of linux/fuse.h, as far as it is needed.
"""

import ctypes
import errno
import os
import stat
import struct
import sys

_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, WRITE, STATFS, RELEASE, INIT, OPENDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = (
    1, 2, 3, 4, 14, 16, 17, 18, 26, 27, 29, 36, 42)  # fmt: skip
_NO_ANSWER = (FORGET, BATCH_FORGET, INTERRUPT, WRITE)
_ROOT, _FILE = 1, 2


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o666
    return _ATTRIBUTES.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(operation: int, node: int) -> bytes:
    """What the kernel is told; raises OSError for what this file system does not know."""
    if operation == INIT:
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 8, 8, 4096, 1, 1, 0, 0, *[0] * 7)
    if operation == LOOKUP:
        return struct.pack("<QQQQII", _FILE, 0, 60, 60, 0, 0) + _attributes(_FILE)
    if operation in (GETATTR, SETATTR):
        return struct.pack("<QII", 60, 0, 0) + _attributes(node)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<QII", 1, 0, 0)
    if operation == STATFS:
        return bytes(80)
    if operation in (RELEASE, RELEASEDIR):
        return b""
    raise OSError(errno.ENOSYS, "not known here")


def main(folder: str) -> None:
    """Mount, and answer for ever."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hung", folder.encode(), b"fuse.hung", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    while True:
        request = os.read(device, 1 << 17)
        _, operation, unique, node, *_ = _HEADER.unpack_from(request)
        if operation in _NO_ANSWER:
            continue
        try:
            code, data = 0, answer(operation, node)
        except OSError as error:
            code, data = -(error.errno or errno.EIO), b""
        os.write(device, _ANSWER.pack(_ANSWER.size + len(data), code, unique) + data)


if __name__ == "__main__":
    main(sys.argv[1])
