"""Recorded runs: reading, splitting into agent and calls, and the modelled host."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import MIB
from agentcgroup.replay import simulate
from agentcgroup.replay.split import agent_and_calls, whole
from agentcgroup.replay.traces import Run, Sample, ToolCall, choose, load
from agentcgroup.replay.world import World, steps_of

BURST = Run(
    "burst", "m",
    tuple(Sample(float(at), (900 if 10 <= at < 12 else 100) * MIB, 0.5) for at in range(30)),
    (ToolCall(9.5, 12.5, "pytest"), ToolCall(20.0, 21.0, "ls")),
)  # fmt: skip


def line(**fields: object) -> str:
    return json.dumps(
        {"task": "a/b", "model": "m", "samples": [[0, 10, 5], [1, 20, 5]], "calls": [{"t": 0.2, "end": None}], **fields}
    )


def test_a_file_of_runs_is_read(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(line() + "\n" + line(task="c/d", set="main") + "\n")
    runs = load(file)
    assert [run.task for run in runs] == ["a/b", "c/d"]
    assert runs[0].peak == 20 * MIB
    assert runs[0].calls[0].to_s == pytest.approx(1.2)
    assert choose(runs, "c/d@m") is runs[1]
    with pytest.raises(AgentCgroupError, match="there are a/b, c/d"):
        choose(runs, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "runs.jsonl:1: not a recorded run"),
        (line(samples=[[0, 1, 1]]), "at least two"),
        (line(samples=[[0, 1, 1], [0, 1, 1]]), "later than the one before"),
        (line(samples=[[0, -1, 1], [1, 1, 1]]), "negative"),
        (line(samples=[[0, 1], [1, 1]]), "samples"),
        ("", "no recorded run"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(text)
    with pytest.raises(AgentCgroupError) as error:
        load(file)
    assert words in str(error.value)


def test_what_rises_during_a_call_is_the_calls() -> None:
    agent, calls = agent_and_calls(BURST)
    assert agent.peak == 100 * MIB
    assert [call.peak for call in calls] == [800 * MIB, 0]
    assert [call.command for call in calls] == ["pytest", "ls"]
    assert agent.cpu_s + sum(call.cpu_s for call in calls) == pytest.approx(whole(BURST).cpu_s)
    assert whole(BURST, base=50 * MIB).peak == 950 * MIB


RUNS = st.lists(
    st.builds(
        lambda sizes, calls: Run(
            "r", "m", tuple(Sample(float(at), size * MIB, 0.1) for at, size in enumerate(sizes)),
            tuple(sorted(ToolCall(begin, begin + length, "x") for begin, length in calls)),
        ),
        st.lists(st.integers(1, 400), min_size=2, max_size=30),
        st.lists(st.tuples(st.floats(0, 25), st.floats(0.1, 10)), max_size=4),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=200)
@given(RUNS)
def test_agent_and_calls_never_have_more_than_was_measured_and_steps_end_where_they_began(runs: list[Run]) -> None:
    for run in runs:
        agent, calls = agent_and_calls(run)
        assert agent.peak <= run.peak
        assert all(call.peak <= run.peak for call in calls)
        steps = steps_of(run)
        assert sum(step.after_s for step in steps) == pytest.approx(run.duration_s)
        assert [step.kind for step in steps if step.kind in ("begin", "end")] == ["begin", "end"] * len(calls)


@settings(max_examples=40, deadline=None)
@given(RUNS, st.integers(1, 12), st.integers(450, 3000), st.integers(0, 100))
def test_on_every_modelled_host_everybody_goes_on(runs: list[Run], agents: int, memory: int, seed: int) -> None:
    """No deadlock: as long as time passes, agents finish runs, however little memory there is.  All begin within 300 s."""
    plans = [steps_of(run) for run in runs]
    world = World(plans, agents, memory * MIB, "ours", seed)
    done = [figures.runs + figures.killed for until in (300, 600, 900) for figures in [world.run(until)]]
    assert done[0] < done[1] < done[2]


def test_with_memory_to_spare_nobody_waits_and_nothing_takes_longer() -> None:
    figures = World([steps_of(BURST)], 5, 64 << 30, "ours", 1).run(600)
    assert (figures.killed, figures.waits) == (0, 0)
    assert figures.added == pytest.approx(0, abs=1e-9)


def test_bursts_that_do_not_fit_at_once_wait_where_without_control_they_die() -> None:
    plans = [steps_of(BURST)]
    ours, none = (World(plans, 8, 2 << 30, policy, 3).run(1800) for policy in ("ours", "none"))
    assert none.killed > 0
    assert ours.killed == 0
    assert ours.waits > 0


def test_the_same_seed_gives_the_same_result() -> None:
    case = simulate.Case(4 << 30, 600, 7)
    assert simulate.compare([BURST], case) == simulate.compare([BURST], case)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    result = simulate.compare([BURST], simulate.Case(4 << 30, 300, 1))
    assert result["fit"]["ours"] >= result["fit"]["static, peak"] == 4
    for name in ("plot.png", "plot.svg"):
        simulate.plot([result], tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(AgentCgroupError, match=r"\.png or \.svg"):
        simulate.plot([result], tmp_path / "plot.nonsense")
