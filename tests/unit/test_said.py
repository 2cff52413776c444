"""What a call says of itself is bounded: hints that flood make a bounded number of actions and a bounded record."""

import json

from agentcgroup import control_events as ctl
from agentcgroup.model import CallRecord, Deed
from agentcgroup.notable import deed_words
from agentcgroup.session.acts import MOST_DEEDS, add_deed
from agentcgroup.session.live import HINTS_AT_ONCE, Live
from agentcgroup.session.recorder import row_of
from agentcgroup.session.said import Said


def test_a_flood_of_hints_has_bounded_effect_and_is_said_once() -> None:
    live = Live(CallRecord(1, 100, ("sh",), 0.0))
    steps, log = list[ctl.Event](), list[str]()
    said = Said({1: live}, False, lambda _: None, steps.append, log.append)
    for number in range(644):
        said.hinted(live, f"memory:{number + 10}M")
        said.hinted(live, f"bogus{number}:1")
    assert len(steps) <= HINTS_AT_ONCE + 4
    assert len([line for line in log if "rest is ignored" in line]) == 1
    assert len(log) < 110


def test_what_was_done_to_a_call_is_kept_within_bounds_and_its_end_always() -> None:
    record = CallRecord(1, 100, ("sh",), 0.0)
    for number in range(644):
        add_deed(record, Deed(number, f"limits set ({number}M of memory)", "hint" * 100))
    add_deed(record, Deed(700, "stopped", "memory"))
    assert len(record.deeds) == MOST_DEEDS
    assert record.deeds[0].at_s == 0 and record.deeds[-1].what == "stopped"
    middle = record.deeds[MOST_DEEDS // 2]
    assert middle.what == f"{645 - MOST_DEEDS + 1} more things"
    row = row_of(record)
    assert len(json.dumps(row)) < 40_000
    assert deed_words(row["deeds"]).endswith("stopped (memory)")


def test_the_command_of_a_call_that_is_over_when_it_is_looked_at_is_what_the_kernel_told() -> None:
    """Its first program's arguments were too long to be told; a later one's were not."""
    live = Live(CallRecord(1, 7, (), 0.0))
    calls = {1: live}
    said = Said(calls, True, lambda one: None, lambda event: None, lambda text: None)
    for pid, argv in ((7, ()), (8, ("sleep", "1")), (7, ("bash", "-c", "echo over")), (7, ("echo", "over"))):
        said.execed(1, pid, argv)
    del calls[1]
    said.settle()
    assert live.record.argv == ("bash", "-c", "echo over")
