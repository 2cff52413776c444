"""The sched_ext scheduler on a real kernel: shares, limits, holds, and every way in which it can end."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.enforce import InKernel
from agentcgroup.host.arbiter import NAME
from agentcgroup.kernel import memory, scheduler
from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.kernel.selftest import leaves
from tests.vm.harness import SLICE, TRIES, assert_nothing_left, command, session

LACKING = scheduler.lacking()
NEEDS = pytest.mark.skipif(bool(LACKING), reason=LACKING)
STUCK = Path(__file__).parent / "stuck.bpf.o"
SPIN = "while :; do :; done"


def state() -> str:
    return (scheduler.STATE / "state").read_text().strip()


@pytest.fixture
def loaded() -> Iterator[scheduler.Scheduler]:
    wait_for_no_host()
    program = scheduler.Scheduler()
    yield program
    program.close()


def wait_for_no_host() -> None:
    """An earlier test's host process has gone, and its scheduler with it."""
    wait_for_state("disabled")


def start(leaf: Path, enforcer: InKernel, code: str) -> "subprocess.Popen[bytes]":
    """A shell in a leaf, in the hands of the scheduler from its first command on."""
    process = subprocess.Popen(["sh", "-c", f"read go; {code}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    cgroup.add(leaf, process.pid)
    enforcer.adopt(leaf, process.pid)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    return process


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def used(leaf: Path) -> float:
    return cgroup.read_table(leaf, "cpu.stat")["usage_usec"] / 1e6


def shares(found: list[Path], seconds: float) -> list[float]:
    """The parts of what all used that each used."""
    before = [used(leaf) for leaf in found]
    time.sleep(seconds)
    spent = [used(leaf) - start for leaf, start in zip(found, before, strict=True)]
    return [one / sum(spent) for one in spent]


@NEEDS
def test_saturated_processors_are_shared_by_weight(loaded: scheduler.Scheduler) -> None:
    enforcer = InKernel("sched_ext", loaded.calls_id, rank=1)
    with leaves(3) as found:
        for leaf, weight in zip(found, (100, 200, 400), strict=True):
            cgroup.write(leaf, "cpu.weight", weight)
            for _ in range(os.cpu_count() or 1):
                start(leaf, enforcer, SPIN)
        time.sleep(0.5)
        for got, wanted in zip(shares(found, 4.0), (1 / 7, 2 / 7, 4 / 7), strict=True):
            assert got == pytest.approx(wanted, rel=0.05)
    assert loaded.ejected() is None


@NEEDS
def test_what_one_task_alone_could_not_use_is_not_saved_up(loaded: scheduler.Scheduler) -> None:
    """Two thirds of the processors' time is more than one task can use, on two processors or more."""
    enforcer, processors = InKernel("sched_ext", loaded.calls_id, rank=1), os.cpu_count() or 1
    with leaves(2) as [favoured, other]:
        cgroup.write(favoured, "cpu.weight", 200)
        for _ in range(processors):
            start(other, enforcer, SPIN)
        start(favoured, enforcer, SPIN)
        time.sleep(5)
        for _ in range(processors - 1):
            start(favoured, enforcer, SPIN)
        time.sleep(0.5)
        assert shares([favoured, other], 2.0) == [pytest.approx(2 / 3, rel=0.1), pytest.approx(1 / 3, rel=0.2)]


@NEEDS
def test_cpu_max_holds(loaded: scheduler.Scheduler) -> None:
    enforcer = InKernel("sched_ext", loaded.calls_id, rank=1)
    with leaves(1) as [leaf]:
        cgroup.write(leaf, "cpu.max", "20000 100000")
        start(leaf, enforcer, SPIN)
        start(leaf, enforcer, SPIN)
        time.sleep(1)
        before, began = used(leaf), time.monotonic()
        time.sleep(4)
        assert (used(leaf) - before) / (time.monotonic() - began) == pytest.approx(0.2, rel=0.3)
    assert scheduler.read_figures(loaded.figures_id).holds["quota"] > 0


@NEEDS
def test_a_new_call_goes_ahead_of_those_that_have_used_much(loaded: scheduler.Scheduler) -> None:
    enforcer = InKernel("sched_ext", loaded.calls_id, rank=1)
    with leaves(2) as [old, new]:
        for _ in range(4 * (os.cpu_count() or 1)):
            start(old, enforcer, SPIN)
        time.sleep(1)
        before = used(old)
        short = start(new, enforcer, "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done")
        short.wait()
        # As one of nine on two processors it would have let them have four times its own time.
        assert used(old) - before < 4 * used(new) + 0.05


@NEEDS
def test_a_call_that_lacks_memory_brakes_those_below_it_at_once(loaded: scheduler.Scheduler, hog: str) -> None:
    """The high one stalls at its limit; the low one is held by the kernel alone: nobody else says anything here."""
    high_enforcer, low_enforcer = (InKernel("sched_ext", loaded.calls_id, rank=rank) for rank in (0, 2))
    with leaves(2) as [high, low]:
        cgroup.write(high, "memory.high", 16 << 20)
        grower = start(low, low_enforcer, f"while :; do {hog} 64; done")
        start(high, high_enforcer, f"{hog} 64")
        until(lambda: scheduler.read_figures(loaded.figures_id).holds["protect"] > 0)
        grower.kill()
    figures = scheduler.read_figures(loaded.figures_id)
    assert figures.protections > 0
    assert sum(figures.reactions) > 0
    assert figures.holds["brake"] == 0


@NEEDS
def test_who_is_held_goes_on_as_soon_as_its_brake_is_lifted(monkeypatch: pytest.MonkeyPatch, hog: str) -> None:
    """Holds that would last 0.9 s each, lifted at once, last less than half of that on average."""
    monkeypatch.setattr(scheduler, "RATES_IN_FORCE", scheduler.RATES_IN_FORCE._replace(hold_ns=900_000_000))
    wait_for_no_host()
    program = scheduler.Scheduler()
    enforcer, figures = InKernel("sched_ext", program.calls_id, rank=1), partial(scheduler.read_figures, program.figures_id)

    def lift_a_brake() -> None:
        before = figures()
        enforcer.brake(leaf)
        until(lambda: figures().holds["brake"] > before.holds["brake"])
        enforcer.release(leaf, None)
        until(lambda: sum(figures().held) > sum(before.held))

    with closing(program), leaves(1) as [leaf]:
        start(leaf, enforcer, f"while :; do {hog} 64; done")
        for _ in range(10):
            lift_a_brake()
        assert figures().held_ns < 450_000_000 * sum(figures().held)


@NEEDS
def test_every_hold_ends(loaded: scheduler.Scheduler, hog: str) -> None:
    """Of one task alone, wherever it is interrupted: nothing else that is held starts the timer that ends its hold."""
    enforcer = InKernel("sched_ext", loaded.calls_id, rank=2)
    with leaves(1) as [leaf], interruptions():
        task = start(leaf, enforcer, f"i=0; while [ $i -lt {TRIES or 40} ]; do i=$((i+1)); {hog} 3; done")
        enforcer.grant(leaf, 1 << 20)
        task.wait(TRIES + 400)
    assert scheduler.read_figures(loaded.figures_id).holds["grant"] > 40
    assert loaded.ejected() is None  # the kernel's watchdog does so after 10 s


@contextmanager
def interruptions() -> Iterator[None]:
    """Programs outside that come and go at random moments, on every processor."""
    code = (
        "import random, time\n"
        "while True:\n"
        "  until = time.monotonic() + random.uniform(0, 0.02)\n"
        "  while time.monotonic() < until: pass\n"
        "  time.sleep(random.uniform(0, 0.02))\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@NEEDS
def test_who_went_into_a_cgroup_below_its_leaf_is_braked_and_weighed_as_well(loaded: scheduler.Scheduler, hog: str) -> None:
    enforcer, figures = InKernel("sched_ext", loaded.calls_id, rank=1), partial(scheduler.read_figures, loaded.figures_id)
    with leaves(2) as [leaf, other]:
        below = leaf / "one" / "two"
        below.mkdir(parents=True)
        cgroup.write(other, "cpu.weight", 300)
        grower = start(leaf, enforcer, f"sleep 0.2; while :; do {hog} 64; done")
        cgroup.add(below, grower.pid)
        enforcer.brake(leaf)
        until(lambda: figures().holds["brake"] > 0)
        enforcer.release(leaf, None)
        grower.kill()
        for _ in range(os.cpu_count() or 1):
            cgroup.add(below, start(leaf, enforcer, SPIN).pid)
            start(other, enforcer, SPIN)
        time.sleep(1)
        assert shares([leaf, other], 2.0) == [pytest.approx(1 / 4, rel=0.1), pytest.approx(3 / 4, rel=0.1)]


@NEEDS
def test_who_is_held_holds_no_lock_that_others_need(loaded: scheduler.Scheduler, tmp_path: Path) -> None:
    """Holders of ``mmap_lock`` would stop whoever reads their /proc, and writers to a file system whoever syncs it."""
    enforcer = InKernel("sched_ext", loaded.calls_id, rank=2)
    grow = "python3 -c 'import time\nkept = []\nwhile True: kept.append(b\"x\" * (1 << 20))'"
    write = f"while :; do dd if=/dev/zero of={tmp_path}/held bs=1M count=64 conv=notrunc 2>/dev/null; done"
    with leaves(1) as [leaf]:
        cgroup.write(leaf, "memory.max", 1 << 30)
        grower, writer = start(leaf, enforcer, "exec " + grow), start(leaf, enforcer, write)
        free = outside(grower.pid, tmp_path)
        holds = 0
        slowest = 0.0
        deadline = time.monotonic() + 60
        while holds <= 5 and time.monotonic() < deadline:
            enforcer.brake(leaf)
            slowest = max(slowest, outside(grower.pid, tmp_path))
            holds = scheduler.read_figures(loaded.figures_id).holds["brake"]
        assert holds > 5
        # A reader that had to wait for a hold each time would take 20 ms more for each of its 50 looks.
        assert slowest < 3 * free + 0.3
        for process in (grower, writer):
            process.kill()


def outside(pid: int, folder: Path) -> float:
    """Seconds that somebody else needs for 50 looks into a process's memory map and 5 syncs of a file."""
    began = time.monotonic()
    for _ in range(50):
        Path(f"/proc/{pid}/maps").read_bytes()
    for _ in range(5):
        with open(folder / "other", "wb") as file:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
    return time.monotonic() - began


@NEEDS
def test_taken_out_by_the_watchdog_the_kernels_own_scheduler_goes_on() -> None:
    wait_for_no_host()
    stuck = scheduler.Scheduler(STUCK)
    try:
        enforcer = InKernel("sched_ext", stuck.calls_id, rank=1)
        with leaves(1) as [leaf]:
            start(leaf, enforcer, SPIN)
            start(leaf, enforcer, SPIN)
            start(leaf, enforcer, SPIN)
            deadline = time.monotonic() + 120
            while (gone := stuck.ejected()) is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert "stall" in gone.why
            assert not gone.aside
            before = used(leaf)
            time.sleep(1)
            assert used(leaf) > before
        assert state() == "disabled"
    finally:
        stuck.close()


@NEEDS
def test_an_object_that_is_none_is_refused_with_a_reason(tmp_path: Path) -> None:
    wait_for_no_host()
    (tmp_path / "broken.o").write_bytes(b"not an object")
    with pytest.raises(BpfError, match=r"broken\.o can't be opened"):
        scheduler.Scheduler(tmp_path / "broken.o")
    assert state() == "disabled"


@NEEDS
@pytest.mark.parametrize("way", ["SysRq", "kill -9"])
def test_a_session_goes_on_when_the_scheduler_ends_and_gets_it_back(tmp_path: Path, way: str) -> None:
    wait_for_no_host()
    report, over = tmp_path / "report.json", tmp_path / "over"
    agent = f"until [ -e {over} ]; do x=$(sleep 0.2; echo x >&2); done"
    run = subprocess.Popen(command("--report", str(report), agent=["sh", "-c", agent]), stderr=subprocess.DEVNULL)
    wait_for_state("enabled")
    if way == "SysRq":
        Path("/proc/sysrq-trigger").write_text("S")
    else:
        subprocess.run(["pkill", "-9", "-x", NAME], check=True)
    wait_for_state("disabled")
    wait_for_state("enabled")
    over.touch()
    assert run.wait(240) == 0
    words = [line.split("enforcer: ")[1] for line in json.loads(report.read_text())["log"] if "enforcer: " in line]
    assert [word.split()[0] for word in words] == ["sched_ext", "cgroup", "sched_ext"]
    assert ("taken out" if way == "SysRq" else "host process is gone") in words[1]
    assert_nothing_left()


def wait_for_state(wanted: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while state() != wanted:
        assert time.monotonic() < deadline, f"sched_ext is {state()}"
        time.sleep(0.02)


def test_an_enforcer_that_the_kernel_lacks_is_refused_by_name(tmp_path: Path) -> None:
    for name, lacking in (("memcg_bpf", memory.lacking()), ("sched_ext", LACKING)):
        if lacking:
            done = session(tmp_path, "--enforcer", name, agent=["true"])
            assert done.code == 2
            assert lacking in done.stderr
    assert not list(SLICE.glob("agentcgroup-*"))


def test_the_summary_says_which_enforcer_was_in_force_and_why(tmp_path: Path) -> None:
    done = session(tmp_path, agent=[sys.executable, "-c", "import time; time.sleep(6)"])
    in_force = "sched_ext" if not LACKING else "cgroup" if memory.lacking() else "memcg_bpf"
    assert f"enforcer {in_force}" in " ".join(done.stderr.split())
    assert (LACKING or memory.lacking_protection()) in done.report["enforcer"]
    chosen = session(tmp_path, "--enforcer", "cgroup", agent=["true"])
    assert "as asked" in chosen.report["enforcer"] or "host process" in chosen.report["enforcer"]
