"""The controller: the ladder's steps one by one, and what holds for every history."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup import control_events as ctl
from agentcgroup.classify import classify, split_budget
from agentcgroup.controller import KILL_RETRY_S, Controller
from agentcgroup.hints import Hint
from agentcgroup.model import CommandClass, Usage
from agentcgroup.policy import Policy, load_policy, parse_policy

POLICY = load_policy()
BUDGET = split_budget(POLICY, 1 << 30)
GRANTED = classify(POLICY, BUDGET, ["./x"])
LIMIT = GRANTED.limits.memory_high_bytes
TOP = GRANTED.limits.memory_max_bytes
TIMED = parse_policy("version: 1\ndefault: {time: 5s, processes: 50}\ndefault_on_limit: {processes: kill}\n", "p")


def started(policy: Policy = POLICY, granted: CommandClass = GRANTED) -> Controller:
    controller = Controller(policy, BUDGET)
    assert controller.step(ctl.Began(1, granted), 0.0) == [ctl.SetLimits(1, granted.limits, granted.rule)]
    return controller


def measured(size: int, firm: int | None = None) -> ctl.Measured:
    return ctl.Measured(1, Usage(size, size if firm is None else firm))


def test_page_cache_at_the_limit_is_left_to_the_kernel() -> None:
    assert started().step(measured(LIMIT + 1, LIMIT // 2), 1.0) == []


def test_over_the_limit_is_braked_first_and_released_when_it_comes_back() -> None:
    controller = started()
    [brake] = controller.step(measured(LIMIT), 1.0)
    assert isinstance(brake, ctl.Brake)
    assert brake.until_s == controller.next_deadline() == 1.0 + POLICY.session.brake
    assert controller.step(measured(LIMIT + 1), 1.5) == []
    assert controller.step(measured(LIMIT // 2), 1.6) == [ctl.Release(1, "back below its memory limit")]
    assert controller.next_deadline() is None


def test_still_over_when_the_brake_ends_is_stopped_with_the_figures() -> None:
    controller = started()
    controller.step(measured(LIMIT), 1.0)
    assert controller.step(ctl.Tick(), 2.0) == [ctl.Measure(1)]
    [stop] = controller.step(measured(LIMIT + 5), 2.0)
    assert isinstance(stop, ctl.Stop)
    assert (stop.notice.used, stop.notice.limit, stop.notice.stopped) == (LIMIT + 5, LIMIT, True)


def test_half_way_to_the_kernels_kill_there_is_no_time_to_brake() -> None:
    [stop] = started().step(measured((LIMIT + TOP) // 2 + 1), 1.0)
    assert isinstance(stop, ctl.Stop)


def test_a_stop_that_did_not_work_is_repeated_and_nothing_else_is_done() -> None:
    controller = started()
    [stop] = controller.step(measured(TOP), 1.0)
    assert controller.step(measured(TOP), 1.1) == []
    assert controller.step(ctl.Tick(), 1.0 + KILL_RETRY_S) == [stop]
    controller.step(ctl.Ended(1), 3.0)
    assert controller.next_deadline() is None


def test_a_declared_need_raises_the_limit_and_ends_the_brake() -> None:
    controller = started()
    controller.step(measured(LIMIT), 1.0)
    [limits] = controller.step(ctl.Hinted(1, Hint(memory="high")), 1.1)
    assert isinstance(limits, ctl.SetLimits)
    assert limits.limits.memory_high_bytes == BUDGET.tools_high
    assert controller.next_deadline() is None


def both(size: int) -> dict[int, Usage]:
    """Two calls that hold so much together, the second more."""
    return {1: Usage(size // 4, size // 4), 2: Usage(size * 3 // 4, size * 3 // 4)}


def two() -> Controller:
    controller = started()
    controller.step(ctl.Began(2, GRANTED), 0.1)
    return controller


def is_stop_of_the_second(actions: list[ctl.Action]) -> bool:
    return [(type(action), action.call, action.notice.reason) for action in actions if isinstance(action, ctl.Stop)] == [
        (ctl.Stop, 2, "budget")
    ]


def test_all_calls_together_over_the_budget_for_longer_than_a_brake_stop_the_largest_alone() -> None:
    controller, usages = two(), both(BUDGET.tools_high + 5)
    assert controller.step(ctl.BudgetCrossed(usages), 1.0) == [ctl.Revoke()]
    assert controller.next_deadline() == 1.0 + POLICY.session.brake
    assert controller.step(ctl.BudgetCrossed(usages), 1.5) == []
    assert controller.step(ctl.Tick(), 2.0) == [ctl.MeasureAll()]
    assert is_stop_of_the_second(controller.step(ctl.BudgetCrossed(usages), 2.0))
    assert controller.step(ctl.BudgetCrossed(usages), 2.0) == []


def test_all_calls_together_that_come_back_below_the_budget_are_left_alone() -> None:
    controller = two()
    controller.step(ctl.BudgetCrossed(both(BUDGET.tools_high)), 1.0)
    assert controller.step(ctl.BudgetCrossed(both(BUDGET.tools_high // 2)), 1.5) == []
    assert controller.next_deadline() is None
    assert controller.step(ctl.BudgetCrossed(both(BUDGET.tools_high)), 9.0) == [ctl.Revoke()]


def test_while_one_waits_for_the_others_memory_nobody_is_stopped_for_the_budget() -> None:
    controller, usages = two(), both(BUDGET.tools_high)
    for second in range(1, 20):
        assert not is_stop_of_the_second(controller.step(ctl.BudgetCrossed(usages, waits=True), second))
        assert controller.next_deadline() == second + POLICY.session.brake
    assert is_stop_of_the_second(controller.step(ctl.BudgetCrossed(usages), 20.0))


def test_all_calls_together_half_way_to_the_kernels_kill_have_no_time_to_brake() -> None:
    for waits in (False, True):
        usages = both((BUDGET.tools_high + BUDGET.tools_max) // 2 + 8)
        assert is_stop_of_the_second(two().step(ctl.BudgetCrossed(usages, waits), 1.0))


def test_page_cache_of_all_calls_together_stops_nobody() -> None:
    assert started().step(ctl.BudgetCrossed({1: Usage(BUDGET.tools_high, 1000)}), 1.0) == []


def test_time_and_processes_stop_a_call_where_the_policy_says_so() -> None:
    granted = classify(TIMED, BUDGET, ["./x"])
    controller = started(TIMED, granted)
    assert controller.next_deadline() == 5.0
    assert controller.step(ctl.Tick(), 4.9) == []
    [stop] = controller.step(ctl.Tick(), 5.0)
    assert isinstance(stop, ctl.Stop)
    assert stop.notice.reason == "time"
    [stop] = started(TIMED, granted).step(ctl.ProcessesRefused(1), 1.0)
    assert isinstance(stop, ctl.Stop)
    assert stop.notice.reason == "processes"


def test_a_call_that_gets_nowhere_for_lack_of_memory_is_stopped() -> None:
    controller = started()
    limit = POLICY.session.thrash
    assert controller.step(ctl.Stalled(1, 5.0), 10.0) == []
    assert controller.step(ctl.Stalled(1, 5.0 + 0.9 * limit), 10.0 + 0.99 * limit) == []
    [stop] = controller.step(ctl.Stalled(1, 5.0 + 0.92 * limit), 10.0 + 1.01 * limit)
    assert isinstance(stop, ctl.Stop)
    assert stop.notice.reason == "stalled"


def test_a_call_that_stalls_now_and_then_goes_on() -> None:
    controller = started()
    for second in range(100):
        assert controller.step(ctl.Stalled(1, 0.5 * second), float(second)) == []


def test_where_processors_are_short_a_long_call_sinks_below_a_short_one() -> None:
    controller = started()
    controller.step(ctl.Began(2, GRANTED), 0.1)
    actions = controller.step(ctl.Computed({1: 12.0, 2: 0.1}), 13.0)
    assert [(action.call, action.limits.cpu_weight) for action in actions if isinstance(action, ctl.SetLimits)] == [(1, 25)]


def test_a_call_that_is_alone_does_not_sink() -> None:
    assert started().step(ctl.Computed({1: 12.0}), 13.0) == []


def test_a_call_that_the_host_has_no_room_for_is_stopped_with_the_reason() -> None:
    [stop] = started().step(ctl.NoRoom(1, 100, 1000, 3.0, "because"), 1.0)
    assert isinstance(stop, ctl.Stop)
    assert (stop.notice.reason, stop.notice.used, stop.why) == ("room", 100, "room: because")


def test_told_once_of_each_thing() -> None:
    controller = started()
    assert len(controller.step(ctl.ProcessesRefused(1), 1.0)) == 1
    assert controller.step(ctl.ProcessesRefused(1), 1.1) == []
    assert len(controller.step(ctl.KernelKilled(1, 0), 1.2)) == 1


def test_a_kill_by_the_kernel_below_the_calls_own_limit_is_the_sessions() -> None:
    limit = started().limits_of(1)
    assert limit is not None
    for peak, reason, allowed in (
        (limit.memory_high_bytes, "kernel", limit.memory_high_bytes),
        (limit.memory_high_bytes - 1, "session", BUDGET.session),
    ):
        [tell] = started().step(ctl.KernelKilled(1, peak), 1.0)
        assert isinstance(tell, ctl.Tell)
        assert tell.notice.stopped
        assert (tell.notice.reason, tell.notice.used, tell.notice.limit) == (reason, peak, allowed)


CALLS = st.integers(1, 4)
SIZES = st.integers(0, 1 << 31)
USAGES = st.builds(lambda size, share: Usage(size, size * share // 4), SIZES, st.integers(0, 4))
HINTS = st.builds(Hint, memory=st.none() | st.sampled_from(["low", "high"]) | SIZES, timeout_s=st.none() | st.floats(0.1, 20))
COMMANDS = st.sampled_from(["pytest", "git", "./x", "npm"])
EVENTS = st.one_of(
    st.builds(lambda call, name: ctl.Began(call, classify(POLICY, BUDGET, [name])), CALLS, COMMANDS),
    st.builds(lambda call, name: ctl.Reclassified(call, classify(TIMED, BUDGET, [name])), CALLS, COMMANDS),
    st.builds(ctl.Hinted, CALLS, HINTS),
    st.builds(ctl.Measured, CALLS, USAGES),
    st.builds(ctl.BudgetCrossed, st.dictionaries(CALLS, USAGES), st.booleans()),
    st.builds(ctl.ProcessesRefused, CALLS),
    st.builds(ctl.KernelKilled, CALLS, SIZES),
    st.builds(ctl.NoRoom, CALLS, SIZES, SIZES, st.floats(0, 100), st.just("why")),
    st.builds(ctl.Stalled, CALLS, st.floats(0, 1000)),
    st.builds(ctl.Computed, st.dictionaries(CALLS, st.floats(0, 100))),
    st.builds(ctl.Ended, CALLS),
    st.just(ctl.Tick()),
)
HISTORIES = st.lists(st.tuples(EVENTS, st.floats(0, 3)), max_size=40)


@settings(max_examples=500)
@given(HISTORIES)
def test_in_every_history_actions_stay_within_the_rules(history):  # type: ignore[no-untyped-def]
    controller = Controller(POLICY, BUDGET)
    now, live = 0.0, set()
    brakes: dict[int, float] = {}
    for event, passed in history:
        now += passed
        if isinstance(event, ctl.Began):
            live.add(event.call)
        actions = controller.step(event, now)
        if isinstance(event, ctl.Ended):
            live.discard(event.call)
            brakes.pop(event.call, None)
        for action in actions:
            # Only calls that began and have not ended are acted upon: there is no agent domain to name.
            if isinstance(action, (ctl.MeasureAll, ctl.Revoke)):
                continue
            assert action.call in live
            if isinstance(action, ctl.SetLimits):
                assert action.limits.memory_max_bytes <= BUDGET.tools_max
                assert action.limits.memory_high_bytes <= action.limits.memory_max_bytes
                brakes.pop(action.call, None)
            elif isinstance(action, ctl.Brake):
                assert now < action.until_s <= now + GRANTED.brake_s
                brakes[action.call] = action.until_s
            elif isinstance(action, (ctl.Release, ctl.Stop)):
                brakes.pop(action.call, None)
        # Every brake that is on has its end among the deadlines.
        for until in brakes.values():
            deadline = controller.next_deadline()
            assert deadline is not None
            assert deadline <= until


@settings(max_examples=200)
@given(HISTORIES)
def test_every_brake_ends(history):  # type: ignore[no-untyped-def]
    """Whatever came before: when the time of a brake is up and the call is measured, it is released or stopped."""
    controller = Controller(POLICY, BUDGET)
    now, braked = 0.0, set()

    def note(actions: list[ctl.Action]) -> list[ctl.Action]:
        for action in actions:
            if isinstance(action, ctl.Brake):
                braked.add(action.call)
            elif isinstance(action, (ctl.Release, ctl.Stop, ctl.SetLimits)):
                braked.discard(action.call)
        return actions

    for event, passed in history:
        now += passed
        note(controller.step(event, now))
        if isinstance(event, (ctl.Ended, ctl.Began)):
            braked.discard(event.call)
    now += POLICY.session.brake + 0.001
    for action in note(controller.step(ctl.Tick(), now)):
        if isinstance(action, ctl.Measure):
            note(controller.step(ctl.Measured(action.call, Usage(TOP, TOP)), now))
    assert not braked


@given(HISTORIES)
def test_the_same_history_gives_the_same_actions(history):  # type: ignore[no-untyped-def]
    def play() -> list[list[ctl.Action]]:
        controller, now, taken = Controller(POLICY, BUDGET), 0.0, []
        for event, passed in history:
            now += passed
            taken.append(controller.step(event, now))
        return taken

    assert play() == play()
