"""Processes that leave a session by another's hand: a login, a user's service manager.  What root does by hand: tests/kernel."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.vm.daemon import as_user, daemon, history, status, until
from tests.vm.harness import EVENTS, assert_nothing_left, session

pytestmark = pytest.mark.one_kernel

LOOK = "for i in $(seq 50); do grep -q tool- /proc/self/cgroup && break; sleep 0.2; done; cat /proc/self/cgroup"
"""It is placed soon after it starts: where that can't be held, programs run before."""


@EVENTS
def test_an_agent_that_a_login_moves_away_is_taken_back_and_it_is_said(
    users: tuple[str, str], tmp_path: Path, events: str
) -> None:
    done = session(
        tmp_path, "--events", events, "--name", "login", agent=["su", "-", users[0], "-c", f"sleep 0.1; sh -c '{LOOK}'; exit 4"]
    )
    assert done.code == 4, done.stderr
    said = " ".join(done.stderr.split())
    assert "left its place, moved to user.slice/" in said
    assert "by a login: taken back" in said
    assert ["sh", "-c", LOOK] in [call["argv"] for call in done.calls], done.report["log"]
    assert "agentcgroup-login.scope/tools/tool-" in done.stdout, done.report["log"]
    assert_nothing_left()


def test_a_users_service_manager_takes_nobody_out_of_his_session(users: tuple[str, str], hog: str, tmp_path: Path) -> None:
    user = users[0]
    number = subprocess.run(["id", "-u", user], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["loginctl", "enable-linger", user], check=True)
    until("the user's manager", lambda: Path(f"/run/user/{number}/bus").exists())
    # systemd-run asks what scope it is in, and gives up where it was taken back before: that is as good.
    leave = f"for n in 1 2 3 4 5 6 7 8; do XDG_RUNTIME_DIR=/run/user/{number} systemd-run --user --scope"
    everyones = shutil.copy(hog, f"/tmp/hog-{tmp_path.name}")  # what pytest made is root's alone
    back = "until grep -q tool- /proc/self/cgroup; do sleep 0.1; done"  # what is taken before is charged elsewhere
    calls = tuple(f'{leave} bash -c "{back}; {what}" && break; done' for what in ("cat /proc/self/cgroup", f"{everyones} 300 20"))
    agent = ["bash", "-c", "".join(f"x=$(bash -c '{call}' 2>&1); echo \"$x\"; " for call in calls)]
    try:
        (tmp_path / "policy.yaml").write_text("version: 1\ndefault: {memory: 64M}\n")
        with daemon(tmp_path, "--policy", str(tmp_path / "policy.yaml")):
            words = as_user(user, "run", "--name", "scoped", "--memory", "600M", "--", *agent)
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as run:
                notes = until("the note", lambda: status("scoped").get("notes"))
                out, err = run.communicate(timeout=240)
            assert "by a user's service manager: taken back" in notes[0]
            assert "agentcgroup-scoped.scope/tools/tool-" in out, (out, err)
            assert "left its place, moved to user.slice/" in " ".join(err.split())
            assert "agentcgroup: this command was stopped" in out, (out, err, history("scoped"))
            until(
                "its row",
                lambda: [call for call in history("scoped") if any("stopped" in deed["what"] for deed in call["deeds"])],
            )
    finally:
        subprocess.run(["loginctl", "disable-linger", user], check=False)
