"""memcg struct_ops: ``bpf/memory.bpf.c``, loaded and registered; each session attaches it to the cgroup of its own calls.

Kernels that carry the series are recognised by their types.  Its versions differ: what is needed is the member that delays a
charge; protection from reclaim is used where it is there.
"""

from pathlib import Path

from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.records import RATES
from agentcgroup.kernel.scheduler import RATES_IN_FORCE, Ejected

STRUCT = "memcg_bpf_ops"
DELAY, PROTECTION = "get_high_delay_ms", {"below_low", "below_min"}
VARIANTS = {True: "brake_and_protect", False: "brake_only"}
"""Maps of the object, by whether the kernel has the members that protect."""


def lacking(members: set[str] | None = None) -> str:
    """Why this kernel can't have it, in words; empty when it can.  ``members``: those of its struct, if they are known."""
    if members is None:
        with libbpf.KernelTypes() as types:
            members = types.members(STRUCT)
    if not members:
        return "this kernel has no memcg struct_ops (a patch series, in no release yet)"
    return "" if DELAY in members else f"this kernel's {STRUCT} has no {DELAY} (a later version of the series)"


class Memory:
    """The programs, loaded and ready to be attached."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises BpfError when they can't be had here, with the reason."""
        with libbpf.KernelTypes() as types:
            members = types.members(STRUCT)
        if why := lacking(members):
            raise libbpf.BpfError("no memcg struct_ops", why, "sched_ext or cgroup files do its work")
        self.protects = members >= PROTECTION
        used = VARIANTS[self.protects]
        self._object = libbpf.Object(path or object_path("memory"))
        try:
            self._object.leave_out_maps(set(VARIANTS.values()) - {used})
            if not self.protects:
                self._object.leave_out(PROTECTION)
            self._object.set_constants(".rodata.rates", RATES.pack(*RATES_IN_FORCE))
            self._object.load()
            self._object.attach()
            self._object.register_struct_ops(used)
        except BaseException:
            self._object.close()
            raise
        self.calls_id = maps.map_id(self._object.map_descriptor("calls"))
        self.figures_id = maps.map_id(self._object.map_descriptor(".bss"))
        self.ops_id = maps.map_id(self._object.map_descriptor(used))
        self.slowed_id = maps.map_id(self._object.map_descriptor("slowed_calls"))

    def fileno(self) -> int | None:
        """The kernel does not take it out."""
        return None

    def ejected(self) -> Ejected | None:
        """It stays in force until it is closed."""
        return None

    def close(self) -> None:
        self._object.close()
