"""libbpf, as far as it is used here: objects, programs, the kernel's types.  Through ctypes.  ``maps`` has maps and the ring buffer.

bcc's library handle reaches the same functions, but costs 65 MB and a quarter of a second because it
brings LLVM along; so it is only asked where libbpf isn't a library of its own.
"""

import ctypes
import errno
import importlib
import mmap
import os
import struct
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.text import clean

_PRINT = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
SAMPLE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_STRUCT = 4
"""BTF_KIND_STRUCT"""
_FUNC = 12
"""BTF_KIND_FUNC"""
_TYPEDEF = 8
"""BTF_KIND_TYPEDEF"""
_STRUCT_OPS = "struct_ops"
_BPF_LINK_CREATE, _BPF_STRUCT_OPS = 28, 44
"""enum bpf_cmd, enum bpf_attach_type"""
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_libc = ctypes.CDLL(None, use_errno=True)
_MISSES_AT = 208
"""Offset of recursion_misses in struct bpf_prog_info (since 5.12)."""
_LONGEST_LINE = 1 << 20

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_program__autoload": (ctypes.c_bool, [c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint)]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_link__fd": (c_int, [c_void_p]),
    "bpf_map__attach_struct_ops": (c_void_p, [c_void_p]),
    "bpf_map_get_fd_by_id": (c_int, [c_uint]),
    "bpf_map__set_autocreate": (c_int, [c_void_p, ctypes.c_bool]),
    "btf__type_by_id": (c_void_p, [c_void_p, c_uint]),
    "btf__name_by_offset": (c_char_p, [c_void_p, c_uint]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_ulonglong]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, SAMPLE, c_void_p, c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__find_by_name_kind": (c_int, [c_void_p, c_char_p, c_uint]),
    "btf__free": (None, [c_void_p]),
    "libbpf_version_string": (c_char_p, []),
}


class BpfError(AgentCgroupError):
    """BPF can't be used here; the message says in one line which step failed, and why.

    What libbpf and the kernel's verifier said of it, which may be a megabyte, is a note: Python shows notes with a traceback only.
    """

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        super().__init__(what, clean(why, _LONGEST_WHY), do)


_LONGEST_WHY = 300
_said: deque[str] = deque(maxlen=3)
"""What libbpf complained of last."""
_LOG_BEGINS, _LOG_ENDS = "-- BEGIN PROG LOAD LOG --", "-- END PROG LOAD LOG --"
_LOCKDOWN = Path("/sys/kernel/security/lockdown")


def _hear(level: int, form: bytes, arguments: Any) -> int:
    if level == 0:
        # A va_list is passed as a pointer on x86-64 and arm64, and only libc can read it.
        line = ctypes.create_string_buffer(_LONGEST_LINE)
        _libc.vsnprintf(line, len(line), form, c_void_p(arguments))
        _said.append(line.value.decode(errors="replace").strip())
    return 0


_HEARD = _PRINT(_hear)
"""libbpf calls it for as long as the library is loaded: so it is no object's own."""


@lru_cache(maxsize=1)
def library() -> Any:
    """The library's handle, signatures set."""
    try:
        handle: Any = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        try:
            handle = importlib.import_module("bcc.libbcc").lib
        except (ImportError, OSError):
            raise BpfError("libbpf is not installed", "neither libbpf.so.1 nor bcc was found",
                           "install libbpf1 or python3-bpfcc") from None  # fmt: skip
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise BpfError("libbpf is too old", str(error), "install libbpf 1.0 or later") from None
    handle.libbpf_set_print(_HEARD)
    return handle


def version() -> str:
    """libbpf's version, e.g. ``1.5``."""
    return str(library().libbpf_version_string().decode()).lstrip("v")


class Object:
    """A compiled BPF object: open, prepare, load, attach.  Closing it (or dying) detaches everything."""

    def __init__(self, path: Path) -> None:
        """Raises BpfError when the file isn't there or is no BPF object."""
        self._lib = library()
        _said.clear()
        self._links: list[int] = []
        self._object = self._lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            raise BpfError(f"BPF object {path} can't be opened", errno_words(OSError(ctypes.get_errno(), "")),
                           "build it: scripts/bpf")  # fmt: skip
        self.left_out: dict[str, str] = {}
        """Programs that were not loaded, each with its section: the kernel lacks what they attach to."""

    def programs(self) -> dict[str, tuple[int, str]]:
        """Name, handle and section of each program."""
        found, program = {}, self._lib.bpf_object__next_program(self._object, None)
        while program:
            found[self._lib.bpf_program__name(program).decode()] = program, self._lib.bpf_program__section_name(program).decode()
            program = self._lib.bpf_object__next_program(self._object, program)
        return found

    def leave_out(self, names: set[str]) -> None:
        """Don't load these programs."""
        for name, (program, section) in self.programs().items():
            if name in names:
                self._lib.bpf_program__set_autoload(program, False)
                self.left_out[name] = section

    def leave_out_what_the_kernel_lacks(self) -> None:
        """Don't load programs whose function or tracepoint the running kernel doesn't have, nor stand-ins that it makes needless."""
        with KernelTypes() as types:
            lacks = {name for name, (_, section) in self.programs().items() if not types.has_target(section)}
        if "on_memory_event" not in lacks:
            lacks |= {name for name in self.programs() if name.startswith("instead_")}
        self.leave_out(lacks)

    def set_constants(self, section: str, value: bytes) -> None:
        """Fill a data section before loading."""
        size = c_size_t()
        at = self._lib.bpf_map__initial_value(self._map(section), byref(size))
        if not at or len(value) != size.value:
            raise BpfError(
                "the BPF object has another layout", f"{section} has {size.value} bytes", "build it again: scripts/bpf"
            )
        ctypes.memmove(at, value, len(value))

    def memory(self, section: str) -> mmap.mmap:
        """A data section's live memory after loading, read-only."""
        return mmap.mmap(self.map_descriptor(section), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def resize(self, name: str, entries: int) -> None:
        """Another size for a map, before loading."""
        self._lib.bpf_map__set_max_entries(self._map(name), entries)

    def share_map(self, name: str, descriptor: int) -> None:
        """Before loading: use this map of another object instead of an own one.  Raises BpfError."""
        if code := self._lib.bpf_map__reuse_fd(self._map(name), descriptor):
            raise self._refused(f"map {name} can't be shared", -code)

    def load(self) -> None:
        """Hand the programs to the kernel.  Raises BpfError with errno and what libbpf complained of."""
        code = self._lib.bpf_object__load(self._object)
        if code:
            raise self._refused("the kernel refused the BPF programs", -code, _what_to_do(-code))

    def attach(self) -> None:
        """Attach every loaded program; those of a struct_ops map are attached with their map."""
        for name, (program, section) in self.programs().items():
            if section.startswith(_STRUCT_OPS) or not self._lib.bpf_program__autoload(program):
                continue
            link = self._lib.bpf_program__attach(program)
            if not link:
                raise self._refused(f"BPF program {name} ({section}) can't be attached", ctypes.get_errno())
            self._links.append(link)

    def leave_out_maps(self, names: set[str]) -> None:
        """Don't make these maps."""
        for name in names:
            self._lib.bpf_map__set_autocreate(self._map(name), False)

    def register_struct_ops(self, name: str) -> None:
        """Make a struct_ops map ready to be attached to cgroups, one by one (``attach_to_cgroup``).  Raises BpfError.

        libbpf has no call for only that: its attach registers the map first, and then fails for want of a cgroup.
        """
        link = self._lib.bpf_map__attach_struct_ops(self._map(name))
        if link:
            self._links.append(link)
        elif ctypes.get_errno() != errno.ENOENT:
            raise self._refused(f"{name} can't be registered", ctypes.get_errno())

    def attach_struct_ops(self, name: str) -> None:
        """Put a struct_ops map into force, until the object is closed.  Raises BpfError."""
        link = self._lib.bpf_map__attach_struct_ops(self._map(name))
        if not link:
            raise self._refused(f"{name} can't be attached", ctypes.get_errno())
        self._links.append(link)

    def program_descriptors(self, names: set[str]) -> list[int]:
        """File descriptors of those programs that were loaded."""
        found = (self._lib.bpf_program__fd(program) for name, (program, _) in self.programs().items() if name in names)
        return [int(descriptor) for descriptor in found if descriptor >= 0]

    def map_descriptor(self, name: str) -> int:
        """A loaded map's file descriptor."""
        return int(self._lib.bpf_map__fd(self._map(name)))

    def descriptors(self, maps: Iterable[str], programs: Iterable[str]) -> dict[str, list[int]]:
        """What another process needs to go on with the object after this one: maps, programs, and the links that keep them attached.

        The kernel keeps what is attached for as long as anybody holds these; ``Kept`` takes them.
        """
        return {
            **{f"map{name}" if name.startswith(".") else f"map.{name}": [self.map_descriptor(name)] for name in maps},
            **{f"program.{name}": self.program_descriptors({name}) for name in programs},
            "links": [int(self._lib.bpf_link__fd(link)) for link in self._links],
        }

    def _map(self, name: str) -> int:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise BpfError(f"the BPF object has no map {name}", do="build it again: scripts/bpf")
        return int(found)

    def _refused(self, what: str, code: int, do: str = "") -> BpfError:
        error = BpfError(what, locked_down() or "; ".join(filter(None, (errno_words(OSError(code, "")), gist(_said)))), do)
        for line in _said:
            error.add_note(line)
        return error

    def close(self) -> None:
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links.clear()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None


class Kept:
    """A BPF object that another process loaded and attached, by the descriptors that it left (``Object.descriptors``)."""

    def __init__(self, descriptors: Mapping[str, list[int]]) -> None:
        self._descriptors = descriptors

    def map_descriptor(self, name: str) -> int:
        """A map's file descriptor."""
        return self._descriptors[f"map{name}" if name.startswith(".") else f"map.{name}"][0]

    def program_descriptors(self, names: set[str]) -> list[int]:
        """File descriptors of those programs that were loaded."""
        return [descriptor for name in sorted(names) for descriptor in self._descriptors.get(f"program.{name}", ())]

    def memory(self, section: str) -> mmap.mmap:
        """A data section's live memory, read-only."""
        return mmap.mmap(self.map_descriptor(section), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def close(self) -> None:
        for group in self._descriptors.values():
            for descriptor in group:
                os.close(descriptor)


def link_attributes(map_descriptor: int, cgroup_descriptor: int) -> bytes:
    """``union bpf_attr`` for a link of a struct_ops map to a cgroup.

    The memcg series reads the cgroup from ``cgroup.relative_fd``, not from ``target_fd``.
    """
    return struct.pack("=6I", map_descriptor, 0, _BPF_STRUCT_OPS, 0, cgroup_descriptor, 0)


def attach_to_cgroup(map_descriptor: int, cgroup_descriptor: int) -> int:
    """Attach a registered struct_ops map to a cgroup; returns the link, which detaches it when it is closed.  Raises BpfError."""
    attributes = link_attributes(map_descriptor, cgroup_descriptor)
    link = int(_libc.syscall(_SYS_BPF[os.uname().machine], _BPF_LINK_CREATE, attributes, len(attributes)))
    if link < 0:
        code = ctypes.get_errno()
        raise BpfError("memcg struct_ops can't be attached to the cgroup", errno_words(OSError(code, os.strerror(code))))
    return link


def misses(program: int) -> int:
    """How often the kernel left a program out, because it was running on that processor already."""
    info, size = ctypes.create_string_buffer(_MISSES_AT + 8), c_uint(_MISSES_AT + 8)
    library().bpf_obj_get_info_by_fd(program, info, byref(size))
    return int.from_bytes(info.raw[_MISSES_AT:], sys.byteorder)


class KernelTypes:
    """The running kernel's BTF."""

    def __enter__(self) -> "KernelTypes":
        self._lib = library()
        self._btf = self._lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise BpfError("the kernel describes no types", "no BTF in /sys/kernel/btf/vmlinux",
                           "boot a kernel with CONFIG_DEBUG_INFO_BTF")  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.btf__free(self._btf)

    def has_target(self, section: str) -> bool:
        """Whether what a program's section names exists: a function, or a tracepoint."""
        kind, _, target = section.partition("/")
        if kind.startswith(_STRUCT_OPS):
            return True  # a member of a struct, not a function
        if kind == "tp_btf":
            return bool(self._lib.btf__find_by_name_kind(self._btf, f"btf_trace_{target}".encode(), _TYPEDEF) > 0)
        return self.has_function(target)

    def members(self, name: str) -> set[str]:
        """The names of a struct's members; empty when there is no such struct."""
        number = self._lib.btf__find_by_name_kind(self._btf, name.encode(), _STRUCT)
        if number <= 0:
            return set()
        # struct btf_type: name_off, info, size; then so many struct btf_member: name_off, type, offset
        at = self._lib.btf__type_by_id(self._btf, number)
        count = c_uint.from_address(at + 4).value & 0xFFFF
        names = (c_uint.from_address(at + 12 + 12 * place).value for place in range(count))
        return {self._lib.btf__name_by_offset(self._btf, offset).decode() for offset in names}

    def has_function(self, name: str) -> bool:
        """Whether the kernel has a function (or kfunc) of this name."""
        return bool(self._lib.btf__find_by_name_kind(self._btf, name.encode(), _FUNC) > 0)


def gist(said: Iterable[str]) -> str:
    """What tells most of libbpf's complaints, in one line: of a verifier's log, that is its last word but the figures."""
    found = ""
    for text in said:
        before, begins, log = text.partition(_LOG_BEGINS)
        if begins:
            lines = [line.strip() for line in log.partition(_LOG_ENDS)[0].splitlines()]
            last = [line for line in lines if line and not line.startswith(("processed ", "verification time", "stack depth"))]
            return f"{before.strip().removeprefix('libbpf: ')} {last[-1] if last else 'refused'}"
        if not found and "failed to load object" not in text:
            found = text.removeprefix("libbpf: ")
    return found


def locked_down() -> str:
    """Why kernel lockdown keeps BPF programs from reading the kernel's memory; empty where it does not."""
    try:
        locked = "[confidentiality]" in _LOCKDOWN.read_text()
    except OSError:
        return ""
    return "kernel lockdown (confidentiality) lets no BPF program read the kernel's memory" if locked else ""


def _what_to_do(code: int) -> str:
    if code in (errno.EPERM, errno.EACCES):
        return "run as root (CAP_BPF, CAP_PERFMON)"
    return "something else does its work; agentcgroup doctor says more"
