"""``agentcgroup install`` and ``uninstall``: the systemd unit for the agentcgroup that is asked, and nothing else."""

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from agentcgroup.errors import AgentCgroupError, errno_words
from agentcgroup.history.store import FILE

UNIT = Path("/etc/systemd/system/agentcgroup.service")


def install() -> int:
    """Write the unit, enable and start it; exit code 0.  Raises AgentCgroupError where systemd refuses."""
    _need_root("install")
    _write(unit_text(_command()))
    for words in (["daemon-reload"], ["enable", "--quiet", UNIT.name], ["restart", UNIT.name]):
        _systemctl(*words)
    print(f"agentcgroup: {UNIT} is enabled and runs; journalctl -u agentcgroup shows what it does")
    return 0


def uninstall() -> int:
    """Stop the daemon and take the unit away; sessions go on, without it.  The history stays."""
    _need_root("uninstall")
    if UNIT.exists():
        _systemctl("disable", "--quiet", "--now", UNIT.name)
        UNIT.unlink()
        _systemctl("daemon-reload")
    print(f"agentcgroup: uninstalled; the history is still in {FILE}")
    return 0


def unit_text(command: str) -> str:
    """The unit, for the agentcgroup at this path."""
    packaged = resources.files("agentcgroup") / "configs" / UNIT.name
    source = packaged if packaged.is_file() else Path(__file__).parents[2] / "configs" / UNIT.name
    return source.read_text().replace("/usr/bin/agentcgroup", command)


def _command() -> str:
    """What systemd is to run: the command beside this Python, or this Python with the module."""
    beside = Path(sys.executable).with_name("agentcgroup")
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("agentcgroup") or f"{sys.executable} -m agentcgroup"


def _need_root(what: str) -> None:
    if os.geteuid():
        raise AgentCgroupError(f"{what} needs root", "it changes system services", "run it with sudo, or as root")


def _write(text: str) -> None:
    try:
        UNIT.write_text(text)
    except OSError as error:
        raise AgentCgroupError(f"{UNIT} can't be written", errno_words(error)) from None


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True)
    except OSError as error:
        raise AgentCgroupError("systemctl can't be run", errno_words(error), "this needs a host with systemd") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise AgentCgroupError(
            f"systemctl {' '.join(words)} failed", said[-1] if said else "", "journalctl -u agentcgroup says why"
        )
