"""The daemon with real containers: sessions, tool calls, its death and the next one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.policy import NAMED_POLICIES
from agentcgroup.service.status import ask, sessions
from tests.vm.daemon import Kept, container, daemon, docker, history, status, until, until_equal
from tests.vm.harness import TRIES

pytestmark = pytest.mark.one_kernel


def top(identity: str) -> Path:
    return Path(f"/sys/fs/cgroup/system.slice/docker-{identity}.scope")


def test_labelled_containers_are_sessions_whether_they_start_before_or_after_the_daemon(image: str, tmp_path: Path) -> None:
    NAMED_POLICIES.mkdir(parents=True, exist_ok=True)
    (NAMED_POLICIES / "strict.yaml").write_text("version: 1\ndefault: {processes: 17}\n")
    with (
        container(image, "--name", "before") as before,
        daemon(tmp_path),
        container(
            image,
            "--label",
            "agentcgroup.name=after",
            "--label",
            "agentcgroup.priority=high",
            "--label",
            "agentcgroup.memory=200m",
            "--label",
            "agentcgroup.policy=strict",
        ) as after,
        container(image, "--name", "other", label="some=thing") as other,
    ):
        until("calls", lambda: all(status(name).get("ended_calls", 0) >= 3 for name in ("before", "after")))
        assert (status("after")["priority"], status("after")["budget_bytes"]) == ("high", 200 << 20)
        assert "17\n" in [file.read_text() for file in top(after).glob("tools/tool-*/pids.max")]
        assert status("other") == {}
        assert not (top(other) / "agent").exists()
        assert all((top(one) / "tools").exists() for one in (before, after))
        assert {"sh -c 'sleep 0.3; echo done'", "sleep 0.3; echo done"} & {call["command"] for call in history("after")}
        docker("stop", "--time", "1", after)
        until("the session's end", lambda: status("after") == {})
    ended = [call for call in history("after") if call["duration_s"] is not None]
    assert len(ended) >= 4


def test_the_agent_of_a_container_with_an_init_is_what_the_init_started(image: str, tmp_path: Path) -> None:
    with container(image, "--init", "--name", "with-init") as identity, daemon(tmp_path):
        until("calls", lambda: status("with-init").get("ended_calls", 0) >= 3)
        assert not [call["command"] for call in history("with-init") if "while" in call["command"]]  # the agent itself
        main = int(docker("inspect", "--format", "{{.State.Pid}}", identity))
        (shell,) = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        assert Path(f"/proc/{shell}/cgroup").read_text().strip().endswith("/agent")


def test_a_killed_daemon_leaves_nothing_frozen_and_the_next_one_takes_up_what_it_finds(image: str, tmp_path: Path) -> None:
    long = "x=$(sh -c 'sleep 2000; echo long'); echo $x; sleep 1000"
    with container(image, "--name", "kept", agent=long) as identity:
        with daemon(tmp_path) as first:
            call = until("the call", lambda: status("kept").get("calls"))[0]
            began = time.monotonic()
            leaf = top(identity) / "tools" / f"tool-{call['call']}"
            (leaf / "cgroup.freeze").write_text("1")
            first.send_signal(signal.SIGKILL)
            first.wait()
            until("the guardian's work", lambda: (leaf / "cgroup.freeze").read_text().strip() == "0")
        assert "max" in (leaf / "memory.max").read_text()
        with daemon(tmp_path):
            again = until("the call again", lambda: status("kept").get("calls"))[0]
            assert (again["call"], again["pid"], again["command"]) == (call["call"], call["pid"], call["command"])
            assert again["limit_bytes"] == call["limit_bytes"]
            (sleeping,) = (int(pid) for pid in (leaf / "cgroup.procs").read_text().split() if int(pid) != call["pid"])
            os.kill(sleeping, signal.SIGTERM)
            until("its end", lambda: docker("logs", identity) == "long")
            (row,) = until("its row", lambda: [one for one in history("kept") if one["duration_s"]])
            assert row["duration_s"] > time.monotonic() - began - 5  # as one call, with the time without a daemon
            assert row["exit_status"] == 0


def test_kills_at_random_moments_lose_no_call_and_stop_no_agent(image: str, tmp_path: Path) -> None:
    """The kernel's monitor sees on while no daemon is there, so the history has all that the agents did, once.

    With AGENTCGROUP_TRIES it is so many kills, and eight agents.
    """

    def ended(name: str) -> list[dict[str, Any]]:
        return [row for row in history(name) if row["duration_s"] is not None]

    kills = 1 + (TRIES or 2)
    kept, names = Kept(), [f"agent-{number}" for number in range(8 if TRIES else 2)]
    calls, before_s = 40 + 6 * TRIES, 3 * len(names)
    most = 2 * calls + 1  # two in each turn, and the first
    adopted_s = []
    # It begins when the daemon has found it: what ended before that was never governed.
    agent = (
        f"sleep {before_s}; n=0; while [ $n -lt {calls} ]; do "
        "n=$((n+1)); x=$(sh -c 'sleep 0.5; exit 3'); echo $n; sleep 0.3; done; sleep 1000"
    )
    with daemon(tmp_path, kept=kept) as zeroth, ExitStack() as containers:
        for name in names:
            containers.enter_context(container(image, "--name", name, agent=agent))
        until("all sessions", lambda: all(status(name).get("calls") for name in names))
        zeroth.send_signal(signal.SIGKILL)
        zeroth.wait()
        for at in range(kills - 1):
            with daemon(tmp_path, kept=kept) as one:
                began = time.monotonic()
                until("all sessions", lambda: {one["session"] for one in sessions() if "error" not in one} >= set(names))
                adopted_s.append(time.monotonic() - began)
                time.sleep(0.3 + (at * 0.37) % 1)
                if running := status(names[at % len(names)]).get("calls"):
                    ask(names[at % len(names)], op="freeze", call=running[0]["call"])
                one.send_signal(signal.SIGKILL)
        with daemon(tmp_path, kept=kept):
            over = [str(calls)]
            until(
                "the agents' ends", lambda: all(docker("logs", name).splitlines()[-1:] == over for name in names), 120 + 2 * calls
            )
            until_equal(dict.fromkeys(names, most), lambda: {name: len(ended(name)) for name in names})
    print(
        f"{kills} kills, {most * len(names)} calls; from a daemon's readiness until all {len(names)} sessions were adopted: "
        f"at most {max(adopted_s):.1f} s"
    )
    kept.close()
    for name in names:
        assert len({row["call"] for row in history(name)}) == len(history(name))


def test_a_container_can_not_reach_the_daemon_nor_change_its_own_limits(image: str, tmp_path: Path) -> None:
    tries = (
        "ls /run/agentcgroup /var/lib/agentcgroup 2>&1; "
        "for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/tools/memory.max; do "
        "echo max >$file && echo changed $file; done; mkdir /sys/fs/cgroup/mine && echo made; echo tried"
    )
    agent = f"sleep 3; x=$(sh -c '{tries}' 2>&1); echo \"$x\"; sleep 100"
    with daemon(tmp_path), container(image, "--name", "curious", "--memory", "300m", agent=agent) as identity:
        said = until("its tries", lambda: docker("logs", identity))
        assert "tried" in said
        assert not {"changed", "made", "control.sock", "history.db"} & set(said.replace("/", " ").split()), said
        assert (top(identity) / "memory.max").read_text() == f"{300 << 20}\n"


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_containers_are_entered_changed_restarted_and_killed(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    image = request.getfixturevalue({"docker": "image", "podman": "podman_image"}[engine])
    name = f"rough-{engine}"
    with daemon(tmp_path), container(image, "--name", name, "--memory", "300m", engine=engine) as identity:
        first = until("its calls", lambda: status(name).get("ended_calls", 0) >= 3 and status(name))
        assert first["budget_bytes"] == 300 << 20
        done = subprocess.run([engine, "exec", identity, "sh", "-c", "sleep 1; exit 3"], capture_output=True)
        assert done.returncode == 3
        kept = until(
            "the call by exec",
            lambda: [call for call in history(name) if "exit 3" in call["command"] and call["duration_s"]],
        )
        assert [call["exit_status"] for call in kept] == [3 << 8]
        docker("update", "--memory", "400m", "--memory-swap", "400m", identity, engine=engine)
        docker("restart", "--time", "0", identity, engine=engine)
        second = until("the session again", lambda: status(name).get("calls") and status(name))
        assert second["budget_bytes"] == 400 << 20
        docker("kill", identity, engine=engine)
        until("the session's end", lambda: status(name) == {})


def test_a_containers_budget_follows_its_limit_down_and_up_while_a_call_runs(image: str, tmp_path: Path) -> None:
    long = "x=$(sh -c 'sleep 2000; echo long'); sleep 1000"
    with daemon(tmp_path), container(image, "--name", "resized", "--memory", "600m", agent=long) as identity:
        call = until("the call", lambda: status("resized").get("calls"))[0]
        limit = top(identity) / "tools" / f"tool-{call['call']}" / "memory.max"
        given = {600: int(limit.read_text())}

        def resized(mib: int) -> None:
            until_equal(mib << 20, lambda: int(status("resized").get("budget_bytes", 0)))
            until("the call's limit", lambda: limit.read_text().strip() not in {"max", *map(str, given.values())})
            given[mib] = int(limit.read_text())
            [now] = until("the call", lambda: status("resized").get("calls"))
            assert (now["call"], now["pid"]) == (call["call"], call["pid"])

        for mib in (256, 1000):
            docker("update", "--memory", f"{mib}m", "--memory-swap", f"{mib}m", identity)
            resized(mib)
        above = top(identity).parent / "memory.max"
        above.write_text("900M")
        try:
            resized(900)
        finally:
            above.write_text("max")
        assert sorted(given, key=lambda mib: given[mib]) == [256, 600, 900, 1000]
        assert given[256] < 256 << 20


def test_run_starts_a_container_that_is_governed(image: str, tmp_path: Path) -> None:
    words = [
        "run",
        "--docker",
        image,
        "--name",
        "boxed",
        "--priority",
        "low",
        "--",
        "sh",
        "-c",
        "x=$(sh -c 'sleep 3; echo in'); echo $x; exit 4",
    ]
    with daemon(tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "agentcgroup", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (4, "in\n")
        assert [row["exit_status"] for row in until("its call", lambda: history("boxed"))] == [0]
