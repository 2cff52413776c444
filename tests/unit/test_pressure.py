"""What a call's waiting for memory is taken for: only what is not our own doing."""

from pathlib import Path

from agentcgroup import control_events as ctl
from agentcgroup.model import CallRecord
from agentcgroup.session.live import Live
from agentcgroup.session.pressure import Pressure
from agentcgroup.sources import Waited
from tests.unit.folders import Folders, folders
from tests.unit.test_controller import POLICY, started

__all__ = ["folders"]

WAITED = Waited(1, "memory", 0.1)


class Slowed:
    """A call, its pressure, and how much of that the enforcer in force says is its doing."""

    def __init__(self, leaf: Path) -> None:
        self.by_us_s = 0.0
        self.leaf = leaf
        live = Live(CallRecord(1, 1, ("x",), 0.0), leaf=leaf)
        self.pressure = Pressure({1: live}, lambda _: self.by_us_s)

    def hear(self, stalled_s: float) -> ctl.Stalled:
        line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_s * 1e6:.0f}\n"
        (self.leaf / "memory.pressure").write_text(f"some {line}full {line}")
        event = self.pressure.heard(1, WAITED)
        assert isinstance(event, ctl.Stalled)
        return event


def test_a_call_that_only_we_slow_is_not_stopped_for_it(folders: Folders) -> None:
    slowed, controller = Slowed(folders.make("leaf")), started()
    for second in range(5 * int(POLICY.session.thrash)):
        slowed.by_us_s = second * 0.95
        assert controller.step(slowed.hear(float(second)), float(second)) == []


def test_an_enforcer_that_comes_after_another_counts_from_its_own_beginning(folders: Folders) -> None:
    slowed = Slowed(folders.make("leaf"))
    slowed.by_us_s = 8.0
    assert slowed.hear(10.0).stalled_s == 2.0
    slowed.by_us_s = 0.0
    assert slowed.hear(10.5).stalled_s == 2.5
    slowed.by_us_s = 1.0
    assert slowed.hear(12.0).stalled_s == 3.0
