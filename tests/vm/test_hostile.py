"""A user without rights attacks the daemon in every way at hand; another user's session is governed, recorded and answered all the while."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentcgroup.session.places import SESSIONS
from tests.vm.daemon import METRICS, as_user, daemon, history, status, until

pytestmark = pytest.mark.one_kernel

HOSTILE = Path(__file__).parent.parent / "hostile"
SLEEPERS = 100
ATTACKS = (
    ("messages", "theirs", "100"),
    ("orders",),
    ("unread", "theirs"),
    ("history",),
    ("alternate", "theirs", "10"),
    ("metrics", METRICS.rpartition(":")[2]),
    ("locks",),
)


def resident_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def program(user: str, name: str, *words: str) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", sys.executable, str(HOSTILE / name), *words]


def test_whatever_one_user_does_another_is_governed_recorded_and_answered(users: tuple[str, str], tmp_path: Path) -> None:
    alice, mallory = users
    go, theirs = Path(f"/tmp/go-{tmp_path.name}"), Path(f"/tmp/theirs-{tmp_path.name}")
    theirs.mkdir()
    theirs.chmod(0o777)
    (tmp_path / "policy.yaml").write_text("version: 1\ndefault: {memory: 64M}\n")
    loop = f"n=0; while [ ! -e {go} ]; do n=$((n+1)); x=$(sh -c 'sleep 0.2; echo done'); sleep 0.2; done; echo $n"
    with daemon(tmp_path, "--policy", str(tmp_path / "policy.yaml")) as one:
        words = as_user(alice, "run", "--name", "bystander", "--memory", "300M", "--", "sh", "-c", loop)
        hers = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/")
        until("her session", lambda: status("bystander").get("calls"))
        before = resident_mib(one.pid), descriptors(one.pid)
        witness = subprocess.Popen(
            program(alice, "bystander.py", "bystander"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        words = as_user(mallory, "run", "--name", "theirs", "--memory", "700M", "--", sys.executable)
        agent = subprocess.Popen([*words, str(HOSTILE / "agent.py"), str(theirs), str(SLEEPERS)], cwd="/")
        until("their commands", (theirs / "ready").exists, 300)
        for attack in ATTACKS:
            began = time.monotonic()
            done = subprocess.run(program(mallory, "flood.py", *attack), capture_output=True, text=True, cwd="/", timeout=200)
            print(
                f"{attack[0]} at {began:.0f}: {time.monotonic() - began:.1f} s, {resident_mib(one.pid)} MiB,",
                " ".join(done.stdout.split()),
            )
            assert done.returncode == 0, done.stderr
            assert one.poll() is None
        (theirs / "go").touch()
        agent.wait(200)
        until("the end of their sessions", lambda: [folder.name for folder in SESSIONS.iterdir()] == ["bystander"])
        said = json.loads(witness.communicate("\n", timeout=200)[0])
        until("what was theirs to be closed", lambda: descriptors(one.pid) <= before[1] + 5)
        after = resident_mib(one.pid), descriptors(one.pid)
        go.touch()
        count = int(hers.communicate(timeout=200)[0])
        assert one.poll() is None
        print(f"bystander: {said}; {count} commands; MiB, descriptors: {before} -> {after}")
    assert said["bad"] == []
    assert said["asked"] > 20
    # Each turn of her loop is two calls; on a machine this busy, what a short one's command was may not be known.
    rows = history("bystander")
    assert [(row["exit_status"], row["limit_bytes"] is not None) for row in rows] == [(0, True)] * 2 * count
    print(f"of {len(rows)} calls the command is known of {sum('ended before' not in row['command'] for row in rows)}")
    assert after[0] < before[0] + 64
    stopped = [row for row in history("theirs") if "stuck.py" in row["command"]]
    assert len(stopped) == 2
    assert all(row["exit_status"] for row in stopped)
