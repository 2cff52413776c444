"""The Debian package, as an operator meets it: installed, enabled, upgraded, removed."""

import os
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

from agentcgroup.history import store
from tests.vm.daemon import UNIT, as_user, container, status, systemctl, until

pytestmark = pytest.mark.one_kernel

GIVEN = Path("/job/dist")
"""Where scripts/test puts the package that scripts/deb made."""


def dpkg(*words: str) -> None:
    done = subprocess.run(["dpkg", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_governs_a_container_and_a_users_run_and_is_upgraded_under_them(
    image: str, users: tuple[str, str], tmp_path: Path
) -> None:
    packages = sorted(GIVEN.glob("agentcgroup_*.deb"))
    assert packages, f"no package in {GIVEN}: scripts/deb makes one, scripts/vm run --give shows it to the guest"
    dpkg("--install", str(packages[-1]))
    try:
        # What a project has in its folder or names in PYTHONPATH is not what root's command runs.
        (tmp_path / "json.py").write_text("raise SystemExit(3)")
        version = ["/usr/bin/agentcgroup", "--version"]
        subprocess.run(version, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        held = {one.name.lower().replace("_", "-"): one.version for one in distributions(path=["/usr/lib/agentcgroup"])}
        pinned = re.findall(r"^([a-z0-9.-]+)==(\S+)", Path("scripts/requirements.lock").read_text(), re.M)
        assert held == dict(pinned)
        # Enabled by the operator, not by the package: a governor must not come unasked.
        assert systemctl("is-enabled", UNIT) == "disabled"
        subprocess.run(["systemctl", "enable", "--quiet", "--now", UNIT], check=True)
        agent = "x=$(sh -c 'until [ -e /stop ]; do sleep 0.5; done; echo over'); echo $x; sleep 1000"
        with container(image, "--name", "packaged", agent=agent) as identity:
            call = until("the container's call", lambda: status("packaged").get("calls"))[0]
            words = as_user(users[0], "run", "--name", "from-package", "--", "sh", "-c", "x=$(sh -c 'sleep 1; id -un'); echo $x")
            words = [*words[: words.index("-m") - 1], "/usr/bin/agentcgroup", *words[words.index("-m") + 2 :]]
            run = subprocess.run(words, capture_output=True, text=True, cwd="/")
            assert (run.returncode, run.stdout) == (0, "alice\n"), run.stderr
            before = systemctl("show", "--value", "--property", "MainPID", UNIT)
            dpkg("--install", str(packages[-1]))
            assert systemctl("show", "--value", "--property", "MainPID", UNIT) not in ("0", before)
            again = until("the container's call again", lambda: status("packaged").get("calls"))[0]
            assert (again["call"], again["pid"]) == (call["call"], call["pid"])
            dpkg("--remove", "agentcgroup")
            assert systemctl("is-active", UNIT) == "inactive"
            subprocess.run(["docker", "exec", identity, "sh", "-c", ": >/stop"], check=True)
            until(
                "the container's end of its call",
                lambda: subprocess.run(["docker", "logs", identity], capture_output=True, text=True).stdout == "over\n",
                60,
            )
            assert store.FILE.exists(), "removed is not purged: the history stays"
        dpkg("--purge", "agentcgroup")
        assert not store.FILE.exists()
    finally:
        subprocess.run(["dpkg", "--purge", "agentcgroup"], capture_output=True)
