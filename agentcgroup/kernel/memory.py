"""memcg struct_ops: ``bpf/memory.bpf.c``, loaded and registered; each session attaches it to the cgroup of its own calls.

Kernels that carry the series are recognised by their types.  Its versions differ: a later one has no member that delays a charge.
"""

from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.records import RATES
from agentcgroup.kernel.scheduler import RATES_IN_FORCE, Ejected

STRUCT = "memcg_bpf_ops"
DELAY, PROTECTION = "get_high_delay_ms", {"below_low", "below_min"}
VARIANTS = {(True, True): "brake_and_protect", (True, False): "brake_only", (False, True): "protect_only"}
"""Maps of the object, by whether they slow and whether they protect from reclaim."""
_SLOWING = {DELAY, "on_stall_begin", "on_stall_end"}


def members() -> set[str]:
    """Those of the running kernel's struct; empty where it has none."""
    with libbpf.KernelTypes() as types:
        return types.members(STRUCT)


def lacking(found: set[str] | None = None) -> str:
    """Why this kernel can't slow calls so, in words; empty when it can.  ``found``: its struct's members, if they are known."""
    found = members() if found is None else found
    if not found:
        return "this kernel has no memcg struct_ops (a patch series, in no release yet)"
    return "" if DELAY in found else f"this kernel's {STRUCT} has no {DELAY} (a later version of the series)"


def lacking_protection(found: set[str] | None = None) -> str:
    """Why this kernel can't protect calls from reclaim so; empty when it can."""
    found = members() if found is None else found
    if found and not found >= PROTECTION:
        return f"this kernel's {STRUCT} can't protect from reclaim"
    return "" if found else lacking(found)


class Memory:
    """The programs, loaded and ready to be attached."""

    def __init__(self, slows: bool = True, calls: int | None = None) -> None:
        """``slows``: not only to protect.  ``calls``: the map of another object, by its descriptor, that says which calls there are.

        Raises BpfError when they can't be had here, with the reason.
        """
        found = members()
        if why := lacking(found) if slows else lacking_protection(found):
            raise libbpf.BpfError("no memcg struct_ops", why, "sched_ext or cgroup files do its work")
        self.without = lacking_protection(found)
        self.protects = not self.without
        used = VARIANTS[slows, self.protects]
        self._object = libbpf.Object(object_path("memory"))
        try:
            self._object.leave_out_maps(set(VARIANTS.values()) - {used})
            self._object.leave_out((set() if slows else _SLOWING) | (set() if self.protects else PROTECTION))
            if calls is not None:
                self._object.share_map("calls", calls)
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
