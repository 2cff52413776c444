"""What every enforcer must do, on real processes: the ladder's rungs and the way back."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentcgroup import cgroup
from agentcgroup.enforce import CgroupFiles, Enforcer, InKernel, can_brake
from agentcgroup.kernel import scheduler
from agentcgroup.kernel.selftest import leaves, reclaimed, slowdown
from agentcgroup.model import Limits


@pytest.fixture(params=["cgroup", "sched_ext"])
def enforcer(request: pytest.FixtureRequest) -> Iterator[Enforcer]:
    if request.param == "cgroup":
        yield CgroupFiles()
        return
    if why := scheduler.lacking():
        pytest.skip(why)
    loaded = scheduler.Scheduler()
    kernel = InKernel("sched_ext", loaded.calls_id, rank=2)
    yield kernel
    assert loaded.ejected() is None
    kernel.close()
    loaded.close()


@pytest.fixture
def leaf() -> Iterator[Path]:
    place = cgroup.mount_point() / "enforcer-test"
    cgroup.create(place)
    cgroup.enable_controllers(cgroup.mount_point(), cgroup.mount_point())
    try:
        yield place
    finally:
        cgroup.drain(place, 5.0)


@contextlib.contextmanager
def busy(leaf: Path, enforcer: Enforcer) -> Iterator[None]:
    """A program that computes without end, in the leaf."""
    with subprocess.Popen(["sh", "-c", 'echo $$ >"$0/cgroup.procs"; while :; do :; done', str(leaf)]) as process:
        while cgroup.of_process(process.pid) != leaf:
            time.sleep(0.01)
        enforcer.adopt(leaf, process.pid)
        try:
            yield
        finally:
            cgroup.kill(leaf)


def share(leaf: Path, seconds: float = 1.0) -> float:
    """The part of a processor that a leaf uses."""
    before, began = cgroup.read_table(leaf, "cpu.stat")["usage_usec"], time.monotonic()
    time.sleep(seconds)
    return (cgroup.read_table(leaf, "cpu.stat")["usage_usec"] - before) / 1e6 / (time.monotonic() - began)


def test_a_braked_leaf_grows_slowly_and_as_fast_as_ever_when_it_is_released(enforcer: Enforcer, leaf: Path) -> None:
    if not isinstance(enforcer, InKernel) and not can_brake():
        pytest.skip("this kernel's cpu.max stops tasks that hold kernel locks (before 6.18), and is not used as a brake")
    for _ in range(2):  # the second time it starts from released
        assert slowdown(enforcer, leaf) > 2  # about 1 without a brake


def test_a_frozen_leaf_stands_still_and_goes_on(enforcer: Enforcer, leaf: Path) -> None:
    with busy(leaf, enforcer):
        enforcer.freeze(leaf)
        enforcer.freeze(leaf)
        time.sleep(0.2)
        assert share(leaf) < 0.02
        enforcer.thaw(leaf)
        assert share(leaf) > 0.1


def test_a_release_gives_back_the_limit_that_the_leaf_has(enforcer: Enforcer, leaf: Path) -> None:
    limits = Limits(1 << 30, 1 << 30, cpu_cores=0.5)
    cgroup.limit(leaf, limits)
    before = cgroup.read(leaf, "cpu.max")
    enforcer.brake(leaf)
    enforcer.release(leaf, limits)
    assert cgroup.read(leaf, "cpu.max") == before


def test_a_frozen_leaf_can_be_killed(enforcer: Enforcer, leaf: Path) -> None:
    with busy(leaf, enforcer):
        enforcer.freeze(leaf)
        cgroup.kill(leaf)
        deadline = time.monotonic() + 60
        while cgroup.populated(leaf):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_leaf_that_is_gone_is_no_error(enforcer: Enforcer) -> None:
    nowhere = cgroup.mount_point() / "enforcer-test-nowhere"
    enforcer.brake(nowhere)
    enforcer.change_rank(0)
    enforcer.release(nowhere, None)
    enforcer.freeze(nowhere)
    enforcer.thaw(nowhere)


def test_the_self_test_sees_protection_from_reclaim_where_it_acts() -> None:
    """The kernel's own protection stands in for that of the memcg struct_ops, which few kernels have."""
    files = CgroupFiles()
    with leaves(2) as (low, high):
        for place in (high.parent, high):
            cgroup.write(place, "memory.low", 128 << 20)
        lost, kept = reclaimed((files, low), (files, high))
        assert lost > 4 << 20
        assert kept < lost / 4
