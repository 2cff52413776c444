"""What the memcg struct_ops answer when the kernel asks, on kernels that never ask: here they are asked at each fork instead."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_void_p
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.enforce import InKernel
from agentcgroup.kernel import libbpf, maps
from agentcgroup.kernel.files import object_path
from agentcgroup.kernel.memory import DELAY, PROTECTION, VARIANTS
from agentcgroup.kernel.records import RATES, SLOWED, Rates, Slowed
from agentcgroup.kernel.scheduler import RATES_IN_FORCE, read_figures

TRACING, RAW_TRACEPOINT = 26, 23
MS = 1_000_000
STALLS = {"on_stall_begin", "on_stall_end"}
PROGRAM = """
import mmap, os, sys
kept = []
for line in sys.stdin:
    if int(line):
        kept.append(mmap.mmap(-1, int(line)))
        for at in range(0, int(line), 4096): kept[-1][at] = 1
    child = os.fork()
    if not child: os._exit(0)
    os.waitpid(child, 0)
    print(flush=True)
"""


class Brake:
    """The programs, asked at each fork, and a program in a leaf that forks when it is told."""

    def __init__(self, top: Path, rates: Rates, stalls: bool) -> None:
        self._object = libbpf.Object(object_path("memory"))
        with contextlib.suppress(libbpf.BpfError):  # a libbpf that does not know such maps has none
            self._object.leave_out_maps(set(VARIANTS.values()))
        self._object.leave_out(set() if stalls else STALLS)
        self._object.set_constants(".rodata.rates", RATES.pack(*rates))
        lib = libbpf.library()
        for name, of in (("type", [c_int]), ("expected_attach_type", [c_int]), ("attach_target", [c_int, c_char_p])):
            getattr(lib, f"bpf_program__set_{name}").argtypes = [c_void_p, *of]
        for name in (DELAY, *PROTECTION):  # the latter for the verifier only
            program = self._object.programs()[name][0]
            lib.bpf_program__set_type(program, TRACING)
            lib.bpf_program__set_expected_attach_type(program, RAW_TRACEPOINT)
            lib.bpf_program__set_attach_target(program, 0, b"sched_process_fork")
        self._object.load()
        self._object.attach()
        lib.bpf_program__attach_trace.argtypes, lib.bpf_program__attach_trace.restype = [c_void_p], c_void_p
        self._asked = lib.bpf_program__attach_trace(self._object.programs()[DELAY][0])
        assert self._asked
        ids = [maps.map_id(self._object.map_descriptor(name)) for name in ("calls", "slowed_calls", ".bss")]
        self.calls = maps.Map(self._object.map_descriptor("calls"), 24)
        self.slowed = maps.Map(self._object.map_descriptor("slowed_calls"), SLOWED.size)
        self.figures_id = ids[2]
        self.enforcer = InKernel("memcg_bpf", ids[0], 0, slowed_id=ids[1])
        self.leaf = top / "leaf"
        self.program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cgroup.add(self.leaf, self.program.pid)
        self.enforcer.adopt(self.leaf, self.program.pid)
        self.key = cgroup.number(self.leaf).to_bytes(8, sys.byteorder)

    def fork(self, grow: int = 0) -> None:
        """Have the program grow by so many bytes, and fork."""
        assert self.program.stdin is not None and self.program.stdout is not None
        self.program.stdin.write(b"%d\n" % grow)
        self.program.stdin.flush()
        self.program.stdout.readline()

    def counted(self) -> Slowed:
        return Slowed._make(SLOWED.unpack(self.slowed.get(self.key) or bytes(SLOWED.size)))

    def close(self) -> None:
        self.program.communicate()
        self.enforcer.close()
        libbpf.library().bpf_link__destroy(self._asked)
        self._object.close()


@pytest.fixture
def made() -> Iterator[Callable[..., Brake]]:
    top = cgroup.mount_point() / f"brake-test-{os.getpid()}"
    braking: list[Brake] = []

    def make(rates: Rates = RATES_IN_FORCE, stalls: bool = False) -> Brake:
        (top / "leaf").mkdir(parents=True)
        if "memory" in cgroup.read(top, "cgroup.controllers").split():
            cgroup.enable_controllers(top, cgroup.mount_point())
        braking.append(Brake(top, rates, stalls))
        return braking[-1]

    yield make
    for brake in braking:
        brake.close()
    cgroup.drain(top, 5.0)


def test_a_call_that_is_not_slowed_is_left_alone(made: Callable[..., Brake]) -> None:
    brake = made()
    brake.fork()
    assert brake.counted().total_ns == 0
    assert brake.enforcer.slowed_s(brake.leaf) == 0


def test_for_how_long_a_braked_call_sleeps_is_counted(made: Callable[..., Brake]) -> None:
    brake = made()
    brake.fork()
    brake.enforcer.brake(brake.leaf)
    before = time.monotonic_ns()
    brake.fork()
    assert brake.enforcer.slowed_s(brake.leaf) >= 0.02
    assert brake.counted().until_ns >= before + 20 * MS
    brake.enforcer.release(brake.leaf, None)
    counted = brake.counted().total_ns
    brake.fork()
    assert brake.counted().total_ns == counted


def test_delays_that_the_kernel_would_leave_out_are_put_together(made: Callable[..., Brake]) -> None:
    brake = made(RATES_IN_FORCE._replace(hold_ns=MS))
    brake.fork()
    brake.enforcer.brake(brake.leaf)
    slept = []
    for _ in range(40):
        before = brake.counted()
        brake.fork()
        slept.append(brake.counted().owed_ns < before.owed_ns)
    assert any(slept) and not all(slept)
    assert brake.counted().total_ns >= 11 * MS
    assert brake.counted().owed_ns < 11 * MS


def test_who_is_in_a_cgroup_below_its_leaf_is_slowed_as_well(made: Callable[..., Brake]) -> None:
    brake = made()
    below = brake.leaf / "one" / "two"
    below.mkdir(parents=True)
    cgroup.add(below, brake.program.pid)
    brake.enforcer.brake(brake.leaf)
    brake.fork()
    assert brake.counted().total_ns >= 20 * MS


def test_a_call_that_has_grown_by_much_sleeps_for_all_of_it(made: Callable[..., Brake]) -> None:
    """As with huge pages: 16 MiB at once are 64 times what is charged at a time else."""
    brake = made()
    if "memory" not in cgroup.read(brake.leaf, "cgroup.controllers").split():
        pytest.skip("the memory controller is bound to cgroup v1 here")
    brake.fork()
    brake.enforcer.brake(brake.leaf)
    brake.fork(16 << 20)
    counted = brake.counted()
    assert counted.total_ns == 200 * MS
    assert 64 * 20 * MS <= counted.total_ns + counted.owed_ns <= 80 * 20 * MS


def test_nothing_is_kept_of_a_call_whose_leaf_is_gone(made: Callable[..., Brake]) -> None:
    brake = made()
    brake.enforcer.brake(brake.leaf)
    brake.fork()
    assert brake.calls.get(brake.key) and brake.slowed.get(brake.key)
    brake.program.communicate()
    deadline = time.monotonic() + 20
    while brake.leaf.exists():
        assert time.monotonic() < deadline
        cgroup.remove(brake.leaf)
    assert brake.calls.get(brake.key) is None
    assert brake.slowed.get(brake.key) is None


def test_whose_map_of_calls_it_is_can_be_said(made: Callable[..., Brake]) -> None:
    """Beside the scheduler they only protect, and look at its calls."""
    brake = made()
    beside = libbpf.Object(object_path("memory"))
    try:
        with contextlib.suppress(libbpf.BpfError):
            beside.leave_out_maps(set(VARIANTS.values()))
        beside.leave_out(set(beside.programs()))
        beside.share_map("calls", brake.calls.fileno())
        beside.load()
        assert maps.map_id(beside.map_descriptor("calls")) == maps.map_id(brake.calls.fileno())
    finally:
        beside.close()


def test_our_own_delay_is_no_lack_of_memory(made: Callable[..., Brake]) -> None:
    """Lower ranks had to wait for a call that was only slowed itself."""
    try:
        brake = made(stalls=True)
    except libbpf.BpfError as error:
        pytest.skip(f"{error.what}: {error.why}")
    if "memory" not in cgroup.read(brake.leaf, "cgroup.controllers").split():
        pytest.skip("the memory controller is bound to cgroup v1 here")
    brake.fork()
    held = int(cgroup.read(brake.leaf, "memory.current"))
    cgroup.write(brake.leaf, "memory.high", held + (1 << 20))
    brake.slowed.put(brake.key, SLOWED.pack(0, time.monotonic_ns() + 600 * 1000 * MS, held, 0))
    brake.fork(2 << 20)
    assert read_figures(brake.figures_id).protections == 0
    brake.slowed.put(brake.key, SLOWED.pack(0, 0, held, 0))
    brake.fork(2 << 20)
    assert read_figures(brake.figures_id).protections > 0
