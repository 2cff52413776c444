"""The process beside the daemon says that the daemon stands still, and cleans up when it dies."""

import signal
import subprocess
import sys

PROGRAM = """
import asyncio
from agentcgroup.service import guardian
guardian.BEAT_S, guardian.SILENCE_S = 0.05, 1.0
guardian.places.clean = lambda: guardian.log("cleaned")
one = guardian.Guardian()

async def main():
    beating = asyncio.create_task(one.beat())
    await asyncio.sleep(0.1)
    guardian.log("began")
    await beating

asyncio.run(main())
"""


def test_a_daemon_that_is_stopped_is_said_to_be_and_one_that_dies_is_cleaned_up_after() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        assert daemon.stderr.readline() == "agentcgroup: began\n"
        daemon.send_signal(signal.SIGSTOP)
        assert "stands still: its process is stopped" in daemon.stderr.readline()
        daemon.send_signal(signal.SIGCONT)
        assert daemon.stderr.readline() == "agentcgroup: the daemon goes on\n"
        daemon.kill()
        assert daemon.stderr.readline() == "agentcgroup: cleaned\n"
