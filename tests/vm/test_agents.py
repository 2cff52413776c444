"""Real agents, unmodified, whose model is a script: what the model ran is what is seen, decided and told.

They come from npm's registry, packed by ``scripts/agents``.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.command import display
from tests.agents.model_api import DONE, Model, serve
from tests.agents.terminal import Terminal
from tests.vm.harness import SLICE, assert_nothing_left, command
from tests.vm.real_agents import CLAUDE, CODEX, MCP_SERVER, OPENCODE, RealAgent

BUDGET = "2G"
HUNGRY_MB = 1800
LONG = "python3 -c 'import time; time.sleep(600)'"


@dataclass(frozen=True)
class Step:
    """A command of the model, the class that it is in, and how it ends (None: as it is ended)."""

    command: str
    class_name: str = "default"
    code: int | None = 0


def steps(hog: str, last: Step) -> list[list[Step]]:
    """Fifteen calls; two of them at once, the fifth too hungry."""
    here = "cat <<'END'\nit's here\nEND\ngit log --oneline | head -1"
    return [
        [Step("ls -la", "explore")],
        [Step("git status", "git")],
        [Step(f"{hog} 60 1")],
        [Step("seq 1 20000")],
        [Step(f"{hog} {HUNGRY_MB} 5", code=None)],
        [Step("echo next call; python3 -c 'print(6*7)'")],
        [Step(f"AGENT_RESOURCE_HINT=memory:high {hog} 60 1")],
        [Step("tail -f /dev/null >/dev/null 2>&1 & echo started", "explore")],
        [Step("cat README.md | sort | uniq -c | head -3", "explore")],
        [Step("python3 -m pytest --version", "test", code=None)],
        [Step("sleep 2; echo one"), Step("sleep 2; echo two")],
        [Step("python3 -c 'import sys; sys.exit(7)'", code=7)],
        [Step(here, "explore")],
        [last],
    ]


@dataclass
class AgentDomain:
    """What was seen while it lived: whatever would slow or stop the agent, and the processes ``inside`` its calls' leaves."""

    throttled: int = 0
    frozen: bool = False
    looks: int = 0
    inside: set[int] = field(default_factory=set)

    def look(self) -> None:
        for leaf in SLICE.glob("agentcgroup-*.scope/tools/*/cgroup.procs"):
            with contextlib.suppress(OSError):
                self.inside.update(map(int, leaf.read_text().split()))
        for leaf in SLICE.glob("agentcgroup-*.scope/agent"):
            with contextlib.suppress(OSError):
                events = dict(line.split() for line in (leaf / "memory.events").read_text().splitlines())
                state = dict(line.split() for line in (leaf / "cgroup.events").read_text().splitlines())
                self.throttled = max(self.throttled, int(events["high"]))
                self.frozen |= state["frozen"] == "1"
                self.looks += 1


@contextmanager
def watched() -> Iterator[AgentDomain]:
    """Look at the agent's leaf in the background."""
    domain, over = AgentDomain(), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            domain.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield domain
    finally:
        over.set()
        thread.join()


@dataclass
class Ran:
    """How a governed agent fared."""

    code: int | None
    said: str
    report: dict[str, Any]
    domain: AgentDomain

    def calls(self, kind: str) -> list[dict[str, Any]]:
        return [call for call in self.report["calls"] if call["kind"] == kind]


@contextmanager
def scripted(model: Model, agent: RealAgent, folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """The model's server, and a home and a work tree for the agent: yields its environment and the work tree."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    subprocess.run(["git", "init", "-q", work], check=True)
    (work / "README.md").write_text("b\na\nb\n")
    server = serve(model)
    try:
        yield agent.prepare(home, work, f"http://127.0.0.1:{server.server_port}"), work
    finally:
        server.shutdown()
        server.server_close()


def line_of(folder: Path, words: list[str]) -> list[str]:
    return command("--report", str(folder / "report.json"), "--memory", BUDGET, agent=words)


def run_headless(model: Model, agent: RealAgent, folder: Path) -> Ran:
    with scripted(model, agent, folder) as (environment, work), watched() as domain:
        done = subprocess.run(
            line_of(folder, list(agent.headless)),
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,  # some agents read a piece of the task there
            capture_output=True,
            text=True,
            timeout=600,
        )
    return ran(folder, done.returncode, done.stdout + done.stderr, domain)


def ran(folder: Path, code: int | None, said: str, domain: AgentDomain) -> Ran:
    report = folder / "report.json"
    found = json.loads(report.read_text()) if report.exists() else {}
    return Ran(code, said, found, domain)


def ask(terminal: Terminal, model: Model, text: str) -> None:
    """Type something, until the model hears of it: a program that has just drawn its screen may not listen yet."""
    before, deadline = model.asked, time.monotonic() + 180
    while model.asked == before:
        assert time.monotonic() < deadline, f"the model was not asked: {terminal.text()[-3000:]}"
        terminal.press(text)
        time.sleep(2)
        terminal.press("\r")
        again = time.monotonic() + 30
        while model.asked == before and time.monotonic() < again:
            time.sleep(0.2)


def running(line: str) -> list[int]:
    """Processes whose command line holds a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if line in words and words.startswith("python3"):
                found.append(int(folder.name))
    return found


def until(condition: Any, what: str, terminal: Terminal, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: {terminal.text()[-3000:]}"
        time.sleep(0.5)


def run_interactive(model: Model, agent: RealAgent, folder: Path) -> Ran:
    """As somebody would: ask, end the command that takes too long, ask again, leave."""
    with scripted(model, agent, folder) as (environment, work), watched() as domain:
        terminal = Terminal(line_of(folder, list(agent.interactive)), environment, work)
        terminal.wait_for(agent.ready, 240)
        ask(terminal, model, "do the task")
        until(lambda: running("time.sleep(600)"), "the long command did not begin", terminal, 400)
        time.sleep(3)
        for key in agent.stop:
            terminal.press(key)
            time.sleep(1)
        until(lambda: not running("time.sleep(600)"), "the key did not end the command", terminal, 60)
        assert terminal.ended(0) is None, "the key ended the agent"
        ask(terminal, model, "go on")
        until(
            lambda: model.asked == len(model.turns) and len(model.results) >= len(model.commands()) - 1, "the last call", terminal
        )
        time.sleep(3)
        terminal.press(agent.leave)
        time.sleep(2)
        terminal.press("\r")
        code = terminal.ended(60)
        if code is None:
            os.kill(terminal.pid, 15)
            terminal.ended(30)
    return ran(folder, code, terminal.text(), domain)


FEEDBACK = "agentcgroup: this command was stopped"


def check(model: Model, script: list[list[Step]], done: Ran) -> None:
    """What must hold of every agent."""
    expected = [step for turn in script for step in turn]
    assert done.report, done.said[-3000:]
    shown = [display(("sh", "-c", step.command), 500) for step in expected]
    hungry = next(number for number, line in enumerate(shown) if f" {HUNGRY_MB} " in line)
    codes = {line: step.code for line, step in zip(shown, expected, strict=True)}
    found = {
        "the model's calls and their classes": sorted((call["command"], call["class_name"]) for call in done.calls("tool")),
        "how they ended": {
            call["command"]: os.waitstatus_to_exitcode(call["exit_status"])
            for call in done.calls("tool")
            if codes.get(call["command"]) is not None and call["exit_status"] is not None
        },
        "stopped": [call["command"] for call in done.report["calls"] if any("stop" in deed["what"] for deed in call["deeds"])],
        "told so": [number for number, text in sorted(model.results.items()) if FEEDBACK in text],
        "the next command's output": "42" in model.results.get(hungry + 1, ""),
        "helpers": [call["argv"] for call in done.calls("helper")],
        "agent's processes in calls": sorted(
            {process["pid"] for process in done.report["agent"]["processes"]} & done.domain.inside
        ),
        "agent slowed": done.domain.throttled,
        "agent frozen": done.domain.frozen,
        "agent's processes killed": done.report["agent"]["out_of_memory_kills"],
        "exit code": done.code,
    }
    assert found == {
        "the model's calls and their classes": sorted(
            (line, step.class_name) for line, step in zip(shown, expected, strict=True)
        ),
        "how they ended": {line: code for line, code in codes.items() if code is not None},
        "stopped": [shown[hungry]],
        "told so": [hungry],
        "the next command's output": True,
        "helpers": [list(MCP_SERVER)],
        "agent's processes in calls": [],
        "agent slowed": 0,
        "agent frozen": False,
        "agent's processes killed": 0,
        "exit code": 0,
    }
    assert done.domain.looks > 10
    assert_nothing_left()
    assert subprocess.run(["pgrep", "-fx", "tail -f /dev/null"], capture_output=True).stdout == b""


AGENTS = [
    pytest.param(CLAUDE, id=CLAUDE.name),
    pytest.param(CODEX, id=CODEX.name),
    # It asks git 260 times in a session, each time a command with a leaf of its own: eight minutes on an emulated processor.
    pytest.param(OPENCODE, id=OPENCODE.name, marks=pytest.mark.long),
]


@pytest.mark.parametrize("agent", AGENTS)
def test_headless_what_the_model_ran_is_what_is_said(tmp_path: Path, hog: str, agent: RealAgent) -> None:
    script = steps(hog, Step("make --version", "build", code=None))
    model = Model([[step.command for step in turn] for turn in script])
    done = run_headless(model, agent, tmp_path)
    check(model, script, done)
    assert DONE in done.said


@pytest.mark.parametrize("agent", AGENTS)
def test_on_a_terminal_a_key_ends_the_call_and_not_the_agent(tmp_path: Path, hog: str, agent: RealAgent) -> None:
    script = [*steps(hog, Step(LONG, code=None)), [Step("echo after the interruption")]]
    model = Model([[step.command for step in turn] for turn in script])
    done = run_interactive(model, agent, tmp_path)
    check(model, script, done)
    assert "after the interruption" in model.results[max(model.results)]
