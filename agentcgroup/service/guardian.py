"""A process beside the daemon: it lets everything go when that one dies, and says so when that one stands still."""

import asyncio
import contextlib
import os
import select
import signal
from pathlib import Path

from agentcgroup.errors import AgentCgroupError, fault_words
from agentcgroup.service.notify import log
from agentcgroup.session import places
from agentcgroup.session.front import fork

BEAT_S, SILENCE_S = 5.0, 15.0
"""How often the daemon says that it lives, and after how long a silence it stands still.  (systemd's watchdog ends it after 30 s.)"""
_STATES = {"T": "its process is stopped, by SIGSTOP or a terminal", "t": "a debugger holds it", "D": "it waits for the kernel"}


class Guardian:
    """Forked here, before there are threads; it waits at the other end of a pipe, which the kernel closes whatever the daemon dies of."""

    def __init__(self) -> None:
        waits, self._beats = os.pipe()
        os.set_blocking(self._beats, False)
        daemon = os.getpid()
        if fork("the daemon's guardian"):
            os.close(waits)
            return
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.closerange(3, waits)
            os.closerange(waits + 1, os.sysconf("SC_OPEN_MAX"))
            Path("/proc/self/comm").write_text("agentcg-guard")
            _watch(waits, daemon)
            places.clean()
        except BaseException as error:
            log(f"the guardian could not let everything go: {fault_words(error)}", "error")
        finally:
            os._exit(0)

    async def beat(self) -> None:
        """Say that the daemon lives, for as long as it does.  Raises AgentCgroupError when nobody hears it any more."""
        while True:
            try:
                with contextlib.suppress(BlockingIOError):  # enough was said that was not read yet
                    os.write(self._beats, b".")
            except BrokenPipeError:
                raise AgentCgroupError(
                    "the guardian is gone", "nothing lets calls go when the daemon dies, until it is restarted"
                ) from None
            await asyncio.sleep(BEAT_S)


def _watch(waits: int, daemon: int) -> None:
    """Until the daemon is dead."""
    patience_s, stands_still = None, False
    while True:
        if select.select([waits], [], [], patience_s)[0]:
            if not os.read(waits, 4096):
                return
            patience_s = SILENCE_S  # it has begun
            if stands_still:
                log("the daemon goes on")
            stands_still = False
        elif not stands_still:
            stands_still = True
            log(f"the daemon stands still: {_state(daemon)}; calls keep their limits, but nobody is told why one ends", "error")


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/stat").read_text()
        return _STATES.get(line.rpartition(")")[2].split()[0], "it is busy")
    return "it is gone"
