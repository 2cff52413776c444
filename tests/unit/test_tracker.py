"""Processes and calls: whatever order and tree the events describe, membership holds."""

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.policy import load_policy
from agentcgroup.process import Facts
from agentcgroup.tracker import Begin, Join, Promoted, RootExited, Tracker

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


def program(
    pid: int,
    *argv: str,
    ppid: int = ROOT,
    lead: bool = False,
    out: str = "",
    exe: str = "/usr/bin/x",
    names: tuple[str, ...] = (),
) -> Facts:
    return Facts(pid, ppid, pid if lead else 1, argv, "/", False, exe, ("/dev/null", out, out), frozenset(names))


def test_a_call_that_starts_captured_shells_as_agents_do_is_the_agent_and_what_it_runs_next_are_calls() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    begun = tracker.execed(200, program(200, "/opt/engine", "serve", lead=True, out="pipe:[1]"), 2)
    assert begun is not None
    assert tracker.is_candidate(begun.call)
    engine = program(200, "/opt/engine", "serve", lead=True, out="pipe:[1]")
    shell = program(300, "bash", "-lc", "make", ppid=200, lead=True, out="pipe:[2]")
    promoted = tracker.started_inside(begun.call, shell, [engine])
    assert promoted is not None
    assert promoted.runtime == 200
    tracker.promote(promoted, [engine])
    assert tracker.is_agent(200)
    assert tracker.size(begun.call) == 0
    tracker.forked(200, 301, 5)
    later = tracker.execed(301, program(301, "bash", "-lc", "make", ppid=200, lead=True, out="pipe:[3]"), 6)
    assert later is not None
    assert (later.call, later.verdict.role) == (begun.call + 1, "tool")


def test_neither_a_test_runner_in_a_shell_nor_a_known_command_nor_a_script_is_ever_taken_for_the_agent() -> None:
    tracker = started()
    for pid, argv in ((200, ("bash", "-c", "./run")), (201, ("pytest", "-x")), (202, ("/bin/sh", "./run.sh"))):
        tracker.forked(ROOT, pid, 1)
        begun = tracker.execed(pid, program(pid, *argv), 2)
        assert begun is not None
        assert not tracker.is_candidate(begun.call)


def test_a_program_that_shows_its_childrens_output_or_starts_no_shells_is_no_runtime() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    engine = program(200, "/opt/engine", out="pipe:[1]")
    begun = tracker.execed(200, engine, 2)
    assert begun is not None
    for pid, argv, out in (
        (300, ("bash", "-c", "x"), "pipe:[1]"),
        (301, ("git", "status"), "pipe:[9]"),
        (302, ("sh", "-c", "x"), "/dev/null"),
    ):
        assert tracker.started_inside(begun.call, program(pid, *argv, ppid=200, out=out), [engine]) is None


def test_whose_an_earlier_command_was_is_decided_again_when_the_sign_appears() -> None:
    tracker = started()
    for pid, argv, names in (
        (200, ("git", "status"), ()),
        (201, ("sh", "-c", "ps aux"), ()),
        (202, ("bash", "-c", "make"), ("AGENT_X",)),
        (203, ("bash", "-c", "make test"), ("AGENT_X",)),
    ):
        tracker.forked(ROOT, pid, 1)
        assert tracker.execed(pid, program(pid, *argv, names=names), 2) is not None
    assert {call: verdict.role for call, verdict in tracker.decided_again} == {1: "own", 2: "own"}


def test_what_was_taken_for_the_agent_and_becomes_another_program_is_judged_anew() -> None:
    tracker = Tracker(POLICY, ROOT)
    tracker.execed(ROOT, program(ROOT, "/opt/codex", exe="/opt/codex"), 1)
    tracker.forked(ROOT, 200, 2)
    assert tracker.execed(200, program(200, "/opt/codex", "--sandbox", exe="/opt/codex"), 3) is None
    begun = tracker.execed(200, program(200, "bash", "-lc", "make", exe="/bin/bash"), 4)
    assert begun is not None
    assert begun.verdict.role == "tool"


def test_what_a_shells_text_started_inside_a_call_never_makes_it_the_agent() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    server = program(200, "/opt/server", lead=True, out="pipe:[1]")
    begun = tracker.execed(200, server, 2)
    assert begun is not None
    assert tracker.is_candidate(begun.call)
    text = program(300, "bash", "-c", "python3 tests.py", ppid=200, out="/dev/null")
    runner = program(301, "python3", "tests.py", ppid=300, out="pipe:[2]", exe="/usr/bin/python3")
    for pid in (302, 303):
        captured = program(pid, "bash", "-c", "true", ppid=301, lead=True, out=f"pipe:[{pid}]")
        assert tracker.started_inside(begun.call, captured, [runner, text, server]) is None
        # The same with all that led to it gone.
        assert tracker.started_inside(begun.call, captured, [runner]) is None


def test_a_daemon_that_forked_away_from_its_launcher_is_a_runtime_though_its_parents_are_gone() -> None:
    tracker = started()
    tracker.forked(ROOT, 200, 1)
    launcher = program(200, "/opt/launch", out="/dev/null")
    begun = tracker.execed(200, launcher, 2)
    assert begun is not None
    daemon = program(201, "/opt/daemon", "--serve", ppid=200, out="/dev/null", exe="/opt/daemon")
    assert tracker.started_inside(begun.call, daemon, [launcher]) is None
    forked = program(203, "/opt/daemon", "--serve", ppid=1, out="/dev/null", exe="/opt/daemon")
    captured = program(300, "bash", "-lc", "make", ppid=203, lead=True, out="pipe:[2]")
    assert tracker.started_inside(begun.call, captured, [forked]) is not None


@given(
    st.lists(
        st.tuples(st.sampled_from(["fork", "program", "shell", "exit", "promote"]), st.integers(0, 9), st.integers(101, 112))
    )
)
def test_whoever_is_promoted_nobody_is_lost_or_in_two_places(events: list[tuple[str, int, int]]) -> None:
    tracker = started()
    alive, forgotten = {ROOT: ROOT}, set[int]()
    for kind, which, pid in events:
        chosen = sorted(alive)[which % len(alive)]
        if kind == "fork" and pid not in alive:
            tracker.forked(chosen, pid, 1)
            alive[pid] = chosen
            if chosen in forgotten:
                forgotten.add(pid)
        elif kind in ("program", "shell") and chosen != ROOT:
            line = ("/opt/engine",) if kind == "program" else ("bash", "-c", "x")
            tracker.execed(chosen, program(chosen, *line, lead=True), 1)
        elif kind == "exit" and chosen != ROOT:
            tracker.exited(chosen, 0, 1)
            del alive[chosen]
            forgotten.discard(chosen)
        elif kind == "promote" and (call := tracker.call_of(chosen)) is not None and tracker.is_candidate(call):
            members = {one for one in alive if tracker.call_of(one) == call}
            tracker.promote(Promoted(call, chosen, "x"), [program(chosen, "/opt/engine")])
            assert tracker.is_agent(chosen)
            # The others are found again where they are, as is said.
            forgotten |= members - {chosen}
    assert tracker.known_pids() == set(alive) - forgotten
    for pid in set(alive) - forgotten:
        assert tracker.is_agent(pid) != (tracker.call_of(pid) is not None)
    for number in range(1, tracker.next_call):
        assert tracker.size(number) == sum(1 for pid in alive if tracker.call_of(pid) == number)


@given(
    st.lists(st.tuples(st.sampled_from([("bash", "-c"), ("python3", "x.py"), ("/opt/codex",), ("claude", "-p")]), st.booleans()))
)
def test_nothing_inside_a_call_becomes_the_agent_whatever_it_calls_itself(programs: list[tuple[tuple[str, ...], bool]]) -> None:
    tracker = started()
    call(tracker, 200)
    parent = 200
    for number, (argv, leads) in enumerate(programs):
        pid = 300 + number
        tracker.forked(parent, pid, 3)
        facts_ = program(pid, *argv, ppid=parent, lead=leads, out=f"pipe:[{pid}]", names=("CLAUDECODE",))
        assert tracker.execed(pid, facts_, 4) is None
        assert tracker.started_inside(1, facts_, [program(parent, "python3", "x.py")]) is None
        assert tracker.call_of(pid) == 1
        parent = pid
