"""Plays recorded runs as real processes at the same time, in sessions or in plain cgroups, and says how they fared."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

import agentcgroup
from agentcgroup import cgroup, systemd
from agentcgroup.enforce import Choice
from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import Priority
from agentcgroup.replay import player
from agentcgroup.replay.split import Part, agent_and_calls, whole
from agentcgroup.replay.traces import Run, choose, default_file, load
from agentcgroup.schedule.scheduler import LEVELS
from agentcgroup.units import format_duration, parse_size

_READY_WAIT_S = 120.0
_LAUNCHER = Part(0.0, 0.0, ((0.0, 0),), 0.0, "launcher")
POLICY = "version: 1\ndefault: {memory: 100%}\nclasses: []\n"
"""For replayed sessions: no call has a limit of its own, so that all that happens comes of their sharing the host."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run to play: as an agent with calls, or (``as_one``) as one process with ``base`` bytes on top."""

    name: str
    run: Run
    priority: Priority = "normal"
    as_one: bool = False
    base: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to play: ``speed`` times as fast as recorded; ``cpu``: use the processors, too; ``hints``: each call says what it needs."""

    speed: float = 1.0
    cpu: bool = True
    hints: bool = False


@dataclass(slots=True)
class Outcome:
    """How one run fared.  Seconds; ``took_s`` is None if it did not finish; ``step_s`` how long each growth of memory took."""

    name: str
    priority: str
    took_s: float | None
    killed: int = 0
    step_s: list[float] = field(default_factory=list)
    waits: int = 0
    waited_s: float = 0.0
    delayed_s: float = 0.0
    overhead: float = 0.0
    deeds: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """With the steps' percentiles, in milliseconds, instead of the single steps."""
        cuts = quantiles(self.step_s, n=100) if len(self.step_s) > 1 else [float("nan")] * 99
        return {**{key: value for key, value in asdict(self).items() if key != "step_s"},
                **{f"step_p{number}_ms": 1000 * cuts[number - 1] for number in (50, 95, 99)}}  # fmt: skip


Starter = Callable[[Entry, list[str], Path], "subprocess.Popen[str]"]
"""Starts the player of an entry somewhere; the folder is for what it wants to keep."""


def play(entries: Sequence[Entry], settings: Settings, start: Starter) -> list[Outcome]:
    """Play all entries at once, each started by ``start``; returns how each fared, in the same order."""
    with tempfile.TemporaryDirectory(prefix="agentcgroup-replay-") as name:
        players = []
        try:
            for entry in entries:
                folder = Path(name, entry.name)
                folder.mkdir()
                (folder / "plan.json").write_text(json.dumps(_plan(entry, settings, isinstance(start, partial))))
                words = [sys.executable, player.__file__, str(folder / "plan.json"), str(folder / "result.json")]
                players.append(start(entry, words, folder))
            for entry, one in zip(entries, players, strict=True):
                _await_ready(entry, one)
            for one in players:
                with contextlib.suppress(BrokenPipeError):
                    assert one.stdin is not None
                    one.stdin.write("go\n")
                    one.stdin.flush()
            for one in players:
                one.wait()
        finally:
            for one in players:
                if one.poll() is None:
                    one.send_signal(signal.SIGTERM)
                    one.wait()
                for stream in (one.stdin, one.stdout):
                    if stream is not None:
                        with contextlib.suppress(BrokenPipeError):
                            stream.close()
        return [_outcome(entry, Path(name, entry.name)) for entry in entries]


def _plan(entry: Entry, settings: Settings, session: bool) -> dict[str, Any]:
    agent, calls = (_LAUNCHER, [whole(entry.run, entry.base)]) if entry.as_one else agent_and_calls(entry.run)
    tree = str(Path(agentcgroup.__file__).parent.parent)
    return {
        "agent": agent._asdict(),
        "calls": [call._asdict() for call in calls],
        "session": session,
        "tree": tree,
        **asdict(settings),
    }


def _await_ready(entry: Entry, one: "subprocess.Popen[str]") -> None:
    assert one.stdout is not None
    if one.stdout.readline().strip() != "ready":
        raise AgentCgroupError(f"the player of {entry.name} did not start", f"it ended with {one.wait(_READY_WAIT_S)}")


def _outcome(entry: Entry, folder: Path) -> Outcome:
    """From what the player and, in a session, the summary say."""
    outcome = Outcome(entry.name, entry.priority, None)
    if (result := folder / "result.json").exists():
        data = json.loads(result.read_text())
        if any(call["code"] > 0 for call in data["calls"]):
            raise AgentCgroupError(f"a call of {entry.name} could not be played", (folder / "stderr").read_text())
        outcome.killed = sum(call["code"] < 0 for call in data["calls"])
        outcome.took_s = data["took_s"] if not (entry.as_one and outcome.killed) else None
        outcome.step_s = data["agent_steps_s"] + [step for call in data["calls"] for step in call["steps_s"]]
        outcome.delayed_s = sum(call["took_s"] - call["planned_s"] for call in data["calls"])
        outcome.overhead = data["cpu_s"] / data["took_s"]
    else:
        outcome.killed = 1
    if (report := folder / "report.json").exists():
        for call in json.loads(report.read_text())["calls"]:
            waits = [deed["lasted_s"] for deed in call["deeds"] if deed["what"].startswith("waited")]
            outcome.waits += len(waits)
            outcome.waited_s += sum(waits)
            outcome.deeds += [f"{deed['at_s']:.2f} {deed['what']}: {deed['why']}" for deed in call["deeds"]]
    return outcome


def in_session(enforcer: Choice, entry: Entry, words: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Start a player as the agent of a session of its own."""
    rule = folder / "policy.yaml"
    rule.write_text(POLICY)
    run = [sys.executable, "-m", "agentcgroup", "run", "--name", f"replay-{entry.name}", "--priority", entry.priority, "--memory", "100%",
           "--policy", str(rule), "--enforcer", enforcer, "--report", str(folder / "report.json"), "--", *words]  # fmt: skip
    with open(folder / "stderr", "w") as errors:
        return subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


@contextlib.contextmanager
def limited_sessions(memory: int | None, enforcer: Choice = "auto") -> Iterator[Starter]:
    """All sessions together have this much memory (bytes; None: as much as there is), in this block."""
    if memory is not None and systemd.is_running():
        systemd.limit_slice(memory)
    elif memory is not None:
        raise AgentCgroupError("--memory needs systemd", "the limit belongs to its slice", "leave --memory out")
    try:
        yield partial(in_session, enforcer)
    finally:
        if memory is not None:
            systemd.limit_slice(None)


@contextlib.contextmanager
def plain_cgroups(memory: int | None, each: int | None = None) -> Iterator[Starter]:
    """One cgroup with ``memory`` bytes in all, and one below it for each player, with ``each`` bytes if given; in this block."""
    top = cgroup.mount_point() / f"agentcgroup-replay-{os.getpid()}"
    cgroup.create(top)

    def start(entry: Entry, words: list[str], folder: Path) -> "subprocess.Popen[str]":
        place = top / entry.name
        if not place.exists():
            cgroup.create(place)
        cgroup.write(place, "memory.max", cgroup.MAX if each is None else each)
        with open(folder / "stderr", "w") as errors:
            entering = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(place), *words]
            return subprocess.Popen(entering, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

    try:
        cgroup.enable_controllers(top, cgroup.mount_point())
        cgroup.write(top, "memory.max", cgroup.MAX if memory is None else memory)
        with contextlib.suppress(cgroup.CgroupError):
            cgroup.write(top, "memory.swap.max", 0)
        yield start
    finally:
        cgroup.drain(top, 10.0)


def wait_for_quiet_host() -> None:
    """Let the host process of earlier sessions end, so that the next ones begin with nothing known."""
    from agentcgroup.host.arbiter import SOCKET

    deadline = time.monotonic() + 20
    while SOCKET.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def entry(number: int, text: str, traces: Path | None) -> Entry:
    """``TASK[@MODEL][:PRIORITY]`` as an entry.  Raises AgentCgroupError."""
    task, colon, priority = text.partition(":")
    if colon and priority not in LEVELS:
        raise AgentCgroupError(f"priority {priority!r} refused", do="write high, normal or low")
    return Entry(f"{number}", choose(load(traces or default_file()), task), cast("Priority", priority or "normal"))


def replay(entries: Sequence[Entry], settings: Settings, memory: str | None, control: bool) -> list[Outcome]:
    """Play entries in sessions (``control``) or in plain cgroups; ``memory`` is what all together may use, as typed."""
    if os.geteuid():
        raise AgentCgroupError("replay needs root", "it makes cgroups", "run it with sudo, or as root")
    try:
        limit = None if memory is None else parse_size(memory)
    except ValueError as error:
        raise AgentCgroupError("--memory refused", str(error), "write 2G or 512M") from None
    with limited_sessions(limit) if control else plain_cgroups(limit) as start:
        return play(entries, settings, start)


def table(outcomes: Sequence[Outcome]) -> str:
    """How the runs fared, a line each."""
    lines = [f"{'run':>4} {'priority':8} {'time':>9} {'delayed':>9} {'killed':>6} {'waits':>6} {'waited':>9} "
             f"{'step p50':>9} {'p95':>9} {'p99':>9} {'own CPU':>8}"]  # fmt: skip
    for outcome in outcomes:
        row = outcome.row()
        took = "died" if outcome.took_s is None else format_duration(outcome.took_s)
        steps = " ".join(f"{row[f'step_p{number}_ms']:7.1f}ms" for number in (50, 95, 99))
        lines.append(f"{outcome.name:>4} {outcome.priority:8} {took:>9} {format_duration(max(0.0, outcome.delayed_s)):>9} {outcome.killed:6} "
                     f"{outcome.waits:6} {format_duration(outcome.waited_s):>9} {steps} {100 * outcome.overhead:6.1f} %")  # fmt: skip
    return "\n".join(lines)
