"""Retry loops: found from the third call of one command in a row, and what they left is given back."""

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.loops import EndLeftovers, Loop, Loops, Reclaim
from agentcgroup.policy import LoopRule

MB = 1 << 20
TEST = (("pytest", "-x"),)
OTHER = (("git", "status"),)


def play(
    loops: Loops, calls: list[tuple[tuple[tuple[str, ...], ...], int]], lingering: dict[int, int] | None = None
) -> list[Reclaim | EndLeftovers]:
    """Calls one after the other: what each runs, and the memory that stands after it."""
    done: list[Reclaim | EndLeftovers] = []
    for number, (key, standing) in enumerate(calls, 1):
        loops.began(number, key, " ".join(key[0]) if key else "")
        done += loops.ended(number, standing, lingering or {})
    return done


def test_the_third_call_in_a_row_makes_a_loop() -> None:
    loops = Loops(LoopRule())
    assert play(loops, [(TEST, 0), (OTHER, 0), (TEST, 0), (TEST, 0)]) == []
    assert loops.found == []
    loops = Loops(LoopRule())
    play(loops, [(OTHER, 0), (TEST, 0), (TEST, 0), (TEST, 0), (TEST, 0)])
    assert [(loop.command, loop.calls) for loop in loops.found] == [("pytest -x", [2, 3, 4, 5])]


def test_what_a_loop_left_is_reclaimed_from_a_size_on() -> None:
    loops = Loops(LoopRule())
    done = play(loops, [(OTHER, 10 * MB), (TEST, 30 * MB), (TEST, 60 * MB), (TEST, 90 * MB)])
    assert done == [Reclaim(loops.found[0], 80 * MB)]
    assert loops.found[0].left_bytes == 80 * MB
    assert play(Loops(LoopRule(reclaim_from=0)), [(TEST, 900 * MB)] * 4) == []


def test_processes_left_by_earlier_calls_are_ended_by_policy_once() -> None:
    kept = Loops(LoopRule())
    assert play(kept, [(TEST, 0)] * 4, {1: 5 * MB, 2: 5 * MB}) == []
    assert kept.found[0].left_bytes == 10 * MB
    ended = play(Loops(LoopRule(processes="end")), [(TEST, 0)] * 4, {1: 5 * MB, 3: 5 * MB})
    assert [action.call for action in ended if isinstance(action, EndLeftovers)] == [1, 3]


def test_commands_that_could_not_be_looked_at_are_no_loop() -> None:
    loops = Loops(LoopRule())
    play(loops, [((), 0)] * 5)
    assert loops.found == []


@given(st.lists(st.tuples(st.sampled_from([TEST, OTHER, ()]), st.integers(0, 500 * MB)), max_size=30), st.integers(2, 5))
def test_loops_are_runs_of_one_command_and_nothing_else_is_touched(
    calls: list[tuple[tuple[tuple[str, ...], ...], int]], times: int
) -> None:
    loops = Loops(LoopRule(times=times, processes="end"))
    done = play(loops, calls, {1: MB})
    for loop in loops.found:
        assert len(loop.calls) >= times
        assert loop.calls == list(range(loop.calls[0], loop.calls[-1] + 1))
        assert len({calls[call - 1][0] for call in loop.calls}) == 1
    assert all(isinstance(action.loop, Loop) and action.loop in loops.found for action in done)
    assert all(action.call in action.loop.calls for action in done if isinstance(action, EndLeftovers))
    assert all(action.amount >= 64 * MB for action in done if isinstance(action, Reclaim))
