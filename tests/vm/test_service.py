"""The daemon as a service: metrics, its policy, its place among the sessions of run, its unit."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.service.scrape import TOKEN
from tests.vm.daemon import METRICS, UNIT, as_user, container, daemon, status, systemctl, until
from tests.vm.harness import command

pytestmark = pytest.mark.one_kernel


def journal() -> list[dict[str, Any]]:
    said = subprocess.run(["journalctl", "--unit", UNIT, "--output", "json"], capture_output=True, text=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_the_metrics_page_tells_of_sessions_and_of_calls_that_ended_before_the_daemon_began(image: str, tmp_path: Path) -> None:
    with daemon(tmp_path), container(image, "--name", "seen"):
        until("some calls", lambda: status("seen").get("ended_calls", 0) >= 2)
        secret = TOKEN.read_text().strip()
        named = urllib.request.Request(f"http://{METRICS}/metrics", headers={"Authorization": f"Bearer {secret}"})
        with urllib.request.urlopen(named, timeout=20) as answer:
            page = answer.read().decode()
        with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=20) as answer:
            assert "seen" not in answer.read().decode()
        assert TOKEN.stat().st_mode & 0o777 == 0o600
    assert 'agentcgroup_session_up{session="seen"} 1.0' in page
    assert 'agentcgroup_session_memory_bytes{part="agent",priority="normal",session="seen"}' in page
    before = next(
        line for line in page.splitlines() if line.startswith('agentcgroup_tool_calls_total{class="default",ending="ok"}')
    )
    assert float(before.split()[-1]) >= 2


def test_the_daemon_takes_the_place_of_the_host_process_of_runs_and_gives_it_back(tmp_path: Path) -> None:
    words = command("--name", "embedded", agent=["sleep", "600"])
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as run:
        until("its session", lambda: status("embedded"))
        with daemon(tmp_path) as one:
            log = Path("/run/agentcgroup/sessions/embedded/log")
            until("its coming over", lambda: log.read_text().count("enforcer: ") >= 2)
            assert "agentcg-host" not in subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True).stdout
            again = subprocess.run([sys.executable, "-m", "agentcgroup", "daemon"], capture_output=True, text=True)
            assert again.returncode == 2
            assert "runs already" in again.stderr
            one.send_signal(signal.SIGTERM)
            assert one.wait(120) == 0
        until(
            "another host process",
            lambda: "agentcg-host" in subprocess.run(["ps", "-eo", "comm"], capture_output=True, text=True).stdout,
        )
        run.terminate()


def test_a_broken_policy_changes_nothing(image: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\n")
    with daemon(tmp_path, "--policy", str(file)) as one, container(image, "--name", "steady"):
        until("the session", lambda: status("steady"))
        file.write_text("version: 1\nhost: {memory: lots}\n")
        one.send_signal(signal.SIGHUP)
        until("calls go on", lambda: status("steady").get("ended_calls", 0) >= 3)
        assert one.poll() is None


def test_the_unit_is_installed_comes_back_when_killed_and_is_uninstalled(image: str, users: tuple[str, str]) -> None:
    agentcgroup = [sys.executable, "-m", "agentcgroup"]
    subprocess.run([*agentcgroup, "install"], check=True, env={**os.environ, "PYTHONPATH": "/tree"})
    try:
        assert systemctl("is-active", UNIT) == "active"
        with container(image, "--name", "under-unit"):
            until("the session", lambda: status("under-unit").get("calls"))
            # A user's call reads its own limit: the unit's umask leaves the cgroups readable.
            limit = "read x </proc/self/cgroup; cat /sys/fs/cgroup/${x#0::}/memory.max"
            run = subprocess.run(
                as_user(users[0], "run", "--", "sh", "-c", f"x=$(sh -c '{limit}'); echo $x"),
                capture_output=True,
                text=True,
                cwd="/",
            )
            assert run.returncode == 0, run.stderr
            assert int(run.stdout) > 0
            with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=20) as answer:
                assert b"agentcgroup_session_up" in answer.read()
            exposure = subprocess.run(
                ["systemd-analyze", "security", "--no-pager", "--threshold=40", UNIT], capture_output=True, text=True
            )
            print(exposure.stdout.splitlines()[-1])
            assert exposure.returncode == 0, exposure.stdout
            until(
                "the enforcer, inside the unit's bounds", lambda: status("under-unit").get("enforcer", "").startswith("sched_ext")
            )
            before = systemctl("show", "--value", "--property", "MainPID", UNIT)
            systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
            until("the next daemon", lambda: systemctl("show", "--value", "--property", "MainPID", UNIT) not in ("0", before))
            until("the session again", lambda: status("under-unit").get("calls"))
            systemctl("reload", UNIT)
            until("its word in the journal", lambda: any("policy read again" in str(entry.get("MESSAGE")) for entry in journal()))
            assert any(entry.get("AGENTCGROUP_CONTAINER") for entry in journal())
    finally:
        subprocess.run([*agentcgroup, "uninstall"], check=True)
    assert systemctl("is-active", UNIT) == "inactive"
