"""Processes and calls: whatever order and tree the events describe, membership holds."""

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.policy import load_policy
from agentcgroup.process import Facts
from agentcgroup.tracker import Begin, Join, RootExited, Tracker

POLICY = load_policy()
ROOT = 100


def facts(pid: int, *argv: str, ppid: int = ROOT, sid: int = 0, keeps: bool = False) -> Facts:
    return Facts(pid, ppid, sid, argv, "/", keeps)


def started() -> Tracker:
    tracker = Tracker(POLICY, ROOT)
    tracker.execed(ROOT, facts(ROOT, "python3", "agent.py", sid=ROOT, keeps=True), 1)
    return tracker


def call(tracker: Tracker, pid: int) -> Begin:
    tracker.forked(ROOT, pid, 1)
    begun = tracker.execed(pid, facts(pid, "/bin/sh", "-c", "make"), 2)
    assert begun is not None
    return begun


def test_an_execed_child_of_the_agent_is_a_tool_call_and_ends_with_its_root() -> None:
    tracker = started()
    begun = call(tracker, 200)
    assert (begun.call, begun.pid, begun.verdict.role) == (1, 200, "tool")
    assert tracker.exited(200, 9, 3) == RootExited(1, 9, 3)
    assert tracker.size(1) == 0
    assert not tracker.knows(200)


def test_a_fork_of_the_agent_that_does_not_exec_stays_in_the_agent_domain() -> None:
    tracker = started()
    assert tracker.forked(ROOT, 200, 1) is None
    assert tracker.is_agent(200)


def test_a_daemon_that_forks_twice_is_still_the_calls() -> None:
    tracker = started()
    call(tracker, 200)
    assert tracker.forked(200, 201, 3) == Join(1, 201, 3)
    assert tracker.forked(201, 202, 4) == Join(1, 202, 4)
    tracker.exited(201, 0, 5)
    tracker.exited(200, 0, 6)
    assert tracker.call_of(202) == 1
    assert tracker.size(1) == 1


def test_a_reused_process_id_starts_anew() -> None:
    tracker = started()
    call(tracker, 200)
    tracker.exited(200, 0, 3)
    assert call(tracker, 200).call == 2


def test_a_process_that_is_gone_before_it_could_be_read_is_still_counted() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    begun = tracker.execed(200, None, 2)
    assert begun is not None
    assert begun.facts is None


def test_strangers_change_nothing() -> None:
    tracker = started()
    assert tracker.forked(7, 8, 1) is None
    assert tracker.execed(8, facts(8, "x"), 1) is None
    assert tracker.exited(8, 0, 1) is None
    assert tracker.known_pids() == {ROOT}


def test_a_declared_call_leaves_the_call_it_was_in() -> None:
    tracker = started()
    call(tracker, 200)
    tracker.forked(200, 201, 3)
    assert tracker.declare(201, 4).call == 2
    assert (tracker.size(1), tracker.size(2)) == (1, 1)


def test_a_launcher_that_execs_its_agent_becomes_it() -> None:
    tracker = Tracker(POLICY, ROOT)
    tracker.execed(ROOT, facts(ROOT, "env", "claude", sid=ROOT, keeps=True), 1)
    tracker.execed(ROOT, facts(ROOT, "claude", sid=ROOT, keeps=True), 2)
    assert tracker.launched[0].verdict.agent == "claude code"


@given(st.lists(st.tuples(st.sampled_from(["fork", "exec", "exit"]), st.integers(0, 7), st.integers(101, 109))))
def test_every_process_is_in_exactly_one_place_and_sizes_add_up(events: list[tuple[str, int, int]]) -> None:
    tracker = started()
    alive = [ROOT]
    for kind, which, pid in events:
        chosen = alive[which % len(alive)]
        if kind == "fork" and pid not in alive:
            tracker.forked(chosen, pid, 1)
            alive.append(pid)
        elif kind == "exec" and chosen != ROOT:
            tracker.execed(chosen, facts(chosen, "/bin/sh", "-c", "x"), 1)
        elif kind == "exit" and chosen != ROOT:
            tracker.exited(chosen, 0, 1)
            alive.remove(chosen)
    assert tracker.known_pids() == set(alive)
    assert all(tracker.is_agent(pid) != (tracker.call_of(pid) is not None) for pid in alive)
    for number in range(1, tracker.next_call):
        assert tracker.size(number) == sum(1 for pid in alive if tracker.call_of(pid) == number)


def test_what_a_root_forked_before_its_begin_was_known_belongs_to_its_call() -> None:
    tracker = Tracker(POLICY, 100)
    tracker.forked(100, 200, 1)
    tracker.forked(200, 201, 2)
    tracker.forked(201, 202, 3)
    tracker.forked(100, 300, 4)
    assert tracker.exited(201, 0, 5) is None
    begun = tracker.execed(200, None, 6)
    assert begun is not None
    assert begun.early == (202,)
    assert [tracker.call_of(pid) for pid in (200, 202, 300)] == [1, 1, None]
    assert tracker.is_agent(300)
    assert tracker.forked(202, 203, 7) == Join(1, 203, 7)


def test_the_fork_that_has_not_started_a_program_is_known_as_forker() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    tracker.forked(200, 201, 2)
    assert tracker.forked_by(201) == 200
    assert tracker.forked_by(200) is None
    tracker.execed(200, facts(200, "/bin/sh", "-c", "make"), 3)
    assert tracker.forked_by(201) is None
