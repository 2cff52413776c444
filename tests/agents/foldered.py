"""``run`` on plain folders that stand in for cgroups, where a machine has none to give: python -m tests.agents.foldered FOLDER [OPTIONS] -- CMD.

NO_FORKS=N: only N more processes may be had; NO_THREADS: no thread.  KILL=engine or KILL=front: that process is killed while the session is set up.
"""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from agentcgroup import cgroup, stdio, systemd
from agentcgroup.errors import AgentCgroupError
from agentcgroup.history import store
from agentcgroup.session import embedded, options, places, watch
from agentcgroup.session.layout import Layout
from tests.agents import slow_imports  # noqa: F401

folder = Path(sys.argv[1])
FILES = {
    "memory.current": "1048576", "memory.peak": "2097152", "memory.low": "0", "memory.high": "max", "memory.max": "max",
    "memory.swap.max": "max", "memory.oom.group": "0", "memory.stat": "inactive_file 0\nactive_file 0\nanon 1048576\n", "memory.reclaim": "",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n", "memory.events.local": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "cpu.weight": "100", "cpu.max": "max 100000", "cpu.stat": "usage_usec 1000\nuser_usec 500\nsystem_usec 500\n",
    "pids.max": "max", "pids.current": "0", "pids.events": "max 0\n", "cgroup.procs": "", "cgroup.freeze": "0", "cgroup.kill": "",
    "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids",
}  # fmt: skip


def create(place: Path) -> None:
    place.mkdir()
    for name, content in FILES.items():
        (place / name).write_text(content)


def remove(place: Path) -> bool:
    shutil.rmtree(place, ignore_errors=True)
    return True


listed = cgroup.processes


def processes(place: Path) -> list[int]:
    """The kernel takes those that have ended off the list."""
    return [pid for pid in listed(place) if Path(f"/proc/{pid}").exists()]


cgroup.mount_point.cache_clear()
cgroup.mount_point = lambda: folder / "cgroup"  # type: ignore[assignment]
cgroup.create, cgroup.remove, cgroup.processes = create, remove, processes
cgroup.of_process = lambda pid="self": folder / "cgroup"
watch.Watcher.file = lambda *_: None  # type: ignore[method-assign]
systemd.is_running = lambda: False
if not (folder / "cgroup").exists():
    create(folder / "cgroup")
    create(folder / "cgroup" / systemd.SLICE)
store.FILE = folder / "history.db"
places.RUN, places.SESSIONS = folder / "run", folder / "run/sessions"
if os.environ.get("NO_FORKS"):
    forks = iter(range(int(os.environ["NO_FORKS"])))
    fork = os.fork

    def scarce() -> int:
        if next(forks, None) is None:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    os.fork = scarce
if os.environ.get("NO_THREADS"):

    def refuse(*_: object, **__: object) -> int:
        raise RuntimeError("can't start new thread")

    threading._start_new_thread = refuse  # type: ignore[attr-defined]
if os.environ.get("KILL"):
    create_parts = Layout.create_parts

    def interrupted(*arguments: Any) -> None:
        create_parts(*arguments)
        os.kill(os.getpid() if os.environ["KILL"] == "engine" else os.getppid(), signal.SIGKILL)

    Layout.create_parts = interrupted  # type: ignore[method-assign]
stdio.prepare()
plain = options.parse(sys.argv[2:])
assert plain is not None
try:
    code = embedded.run(plain)
except AgentCgroupError as error:
    stdio.say(f"agentcgroup: {error}")
    code = error.exit_code
sys.exit(stdio.finish(code))
