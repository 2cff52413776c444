"""How a session's processes are found again, after events were lost or by the next daemon."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentcgroup.session.governor import Governor, Subject
from agentcgroup.session.layout import Layout
from agentcgroup.sources import Event, Exited
from tests.unit.folders import Watched, folders
from tests.unit.test_asked import governed

__all__ = ["folders", "governed"]


def test_how_a_process_ended_is_told_by_its_event_though_it_is_found_gone_first(
    governed: tuple[Path, Subject, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the events were looked at, and before its cgroup is: its status was lost."""
    _, subject, layout = governed

    async def main() -> list[int | None]:
        one = Governor(subject, layout, Watched(), "folders", lambda rule: None)
        await one.start(lambda: None)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as root:
            one._tracker.forked(subject.stub, root.pid, time.monotonic_ns())
            one.follower.declare(root.pid, ("make",), "")
        looked: list[int] = []

        def drain(source: Watched, deliver: Callable[[Event], None]) -> None:
            looked.append(1)
            if len(looked) == 2:
                deliver(Exited(root.pid, 7 << 8, time.monotonic_ns()))

        monkeypatch.setattr(Watched, "drain", drain)
        (layout.tools / "tool-1/cgroup.procs").write_text("")
        one.follower.resync()
        await one.let_all_go()
        await one.close()
        return [record.exit_status for record in one.calls.records]

    assert asyncio.run(main()) == [7 << 8]
