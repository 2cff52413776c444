"""Which enforcer a host has in force, and what sessions hear of it; the programs themselves are stood in for."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable

import pytest

from agentcgroup.host import enforcement
from agentcgroup.host.enforcement import Enforcement
from agentcgroup.host.wire import Enforce
from agentcgroup.kernel import memory
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.libbpf import BpfError, attach_to_cgroup, gist, link_attributes
from agentcgroup.kernel.scheduler import Ejected


class Program:
    """Loads everywhere, and is taken out when it is told."""

    calls_id, figures_id, ops_id, slowed_id, without = 7, 8, 0, 0, "no memcg_bpf: not here"

    def __init__(self) -> None:
        self._out, self._word = os.pipe()
        self.closed = False

    def fileno(self) -> int:
        return self._out

    def take_out(self) -> None:
        os.write(self._word, b".")

    def ejected(self) -> Ejected | None:
        return Ejected("SysRq", aside=False) if os.read(self._out, 1) else None

    def close(self) -> None:
        self.closed = True


def refuse() -> Program:
    raise BpfError("no memcg struct_ops", "not here")


def played(monkeypatch: pytest.MonkeyPatch, scheduler: Callable[[], Program], play: Callable[[Enforcement], None]) -> None:
    """Run ``play`` in an event loop on a host whose scheduler is ``scheduler``."""
    monkeypatch.setattr(enforcement, "_LOAD", {"memcg_bpf": refuse, "sched_ext": scheduler})
    monkeypatch.setattr(enforcement, "_FIRST_RETRY_S", 0.01)

    async def run() -> None:
        play(Enforcement())
        await asyncio.sleep(0.3)

    asyncio.run(run())


def test_the_best_that_loads_is_in_force_and_what_does_not_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Enforce] = []
    played(monkeypatch, Program, lambda host: host.join("a", "auto", heard.append))
    assert heard == [Enforce("sched_ext", "no memcg_bpf: not here", 7, 8)]


def test_who_keeps_no_lock_of_the_kernel_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Enforce] = []

    async def run() -> None:
        monkeypatch.setattr(enforcement, "_LOAD", {"memcg_bpf": Program, "sched_ext": Program})
        Enforcement().join("a", "auto", heard.append)
        await asyncio.sleep(0.3)

    asyncio.run(run())
    assert [word.name for word in heard] == ["sched_ext"]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (set(), "no memcg struct_ops"),
        ({"get_high_delay_ms"}, "can't protect"),
        ({"below_low", "below_min", "memcg_charged", "memcg_uncharged"}, ""),
    ],
)
def test_a_later_version_of_the_series_protects(members: set[str], expected: str) -> None:
    why = memory.lacking_protection(members)
    assert expected in why
    assert bool(why) == bool(expected)


def test_where_nothing_loads_it_is_cgroup_files_with_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Enforce] = []
    played(monkeypatch, refuse, lambda host: host.join("a", "auto", heard.append))
    assert heard == [Enforce("cgroup", "no sched_ext: not here; no memcg_bpf: not here")]


def test_sessions_get_what_they_asked_for_or_hear_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, list[Enforce]] = {"files": [], "memcg": [], "any": []}

    def play(host: Enforcement) -> None:
        host.join("any", "auto", heard["any"].append)
        host.join("files", "cgroup", heard["files"].append)
        host.join("memcg", "memcg_bpf", heard["memcg"].append)

    played(monkeypatch, Program, play)
    assert heard["any"][-1].name == "sched_ext"
    assert {word.why for word in heard["files"]} == {"as asked"}
    assert heard["memcg"][-1] == Enforce("cgroup", "memcg_bpf was asked for, and is not in force: no memcg_bpf: not here")


def test_one_that_is_taken_out_is_replaced_at_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Enforce] = []
    programs: list[Program] = []

    def load() -> Program:
        programs.append(Program())
        return programs[-1]

    def take_out() -> None:
        programs[0].take_out()  # there is none yet when this is planned

    def play(host: Enforcement) -> None:
        host.join("a", "auto", heard.append)
        asyncio.get_running_loop().call_later(0.1, take_out)

    played(monkeypatch, load, play)
    assert [word.name for word in heard] == ["sched_ext", "cgroup", "sched_ext"]
    assert "SysRq" in heard[1].why
    assert programs[0].closed
    assert not programs[1].closed


@pytest.mark.parametrize(
    ("members", "expected"),
    [(set(), "no memcg struct_ops"), ({"below_low", "memcg_charged"}, "has no get_high_delay_ms"), ({"get_high_delay_ms"}, "")],
)
def test_a_kernels_memcg_struct_ops_are_known_by_their_members(members: set[str], expected: str) -> None:
    why = memory.lacking(members)
    assert expected in why
    assert bool(why) == bool(expected)


def test_the_memory_object_has_a_variant_for_each_form_of_the_series() -> None:
    """By its types: libbpf before 1.4 can't open a ``.struct_ops.link`` section."""
    words = ["bpftool", "-j", "btf", "dump", "file", str(object_path("memory"))]
    types = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["types"]
    assert set(memory.VARIANTS.values()) <= {one["name"] for one in types if one["kind"] == "VAR"}
    [ops] = [one for one in types if one["kind"] == "STRUCT" and one["name"] == memory.STRUCT]
    assert {member["name"] for member in ops["members"]} == {memory.DELAY, *memory.PROTECTION}
    assert {memory.DELAY, *memory.PROTECTION} <= {one["name"] for one in types if one["kind"] == "FUNC"}


def test_the_cgroup_is_named_where_the_series_reads_it() -> None:
    """union bpf_attr: map_fd, target_fd, attach_type, flags, and at offset 16 cgroup.relative_fd."""
    words = [int.from_bytes(link_attributes(5, 9)[at : at + 4], "little") for at in range(0, 24, 4)]
    assert words == [5, 0, 44, 0, 9, 0]


def test_a_kernel_that_can_not_attach_says_so() -> None:
    with pytest.raises(BpfError, match="can't be attached to the cgroup"):
        attach_to_cgroup(os.open("/dev/null", os.O_RDONLY), 0)


LOG = """libbpf: prog 'ext_running': -- BEGIN PROG LOAD LOG --
0: R1=ctx() R10=fp0
; struct task *task = task_of(of); @ scheduler.bpf.c:213
unknown func bpf_probe_read_kernel#113
processed 12 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 1
-- END PROG LOAD LOG --
"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["libbpf: prog 'x': BPF program load failed: Invalid argument", LOG, "libbpf: failed to load object 'x.o'"],
         "prog 'ext_running': unknown func bpf_probe_read_kernel#113"),
        (["libbpf: prog 'x': failed to find kernel BTF type ID of 'y': -3", "libbpf: failed to load object 'x.o'"],
         "prog 'x': failed to find kernel BTF type ID of 'y': -3"),
        (["libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n-- END PROG LOAD LOG --\n"], "prog 'x': refused"),
        ([], ""),
    ],
)  # fmt: skip
def test_of_a_verifiers_log_one_line_is_told(said: list[str], expected: str) -> None:
    assert gist(said) == expected


def test_a_reason_is_one_line_however_much_the_kernel_said() -> None:
    error = BpfError("the kernel refused the BPF programs", LOG * 1000)
    assert len(error.why) <= 300
    assert "\n" not in error.why
