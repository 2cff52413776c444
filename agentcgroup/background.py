"""Work that runs beside the main path (tasks, threads, callbacks of an event loop): none of it ends unseen.

Whatever it raises is one line in the log, with the place it came from, and counted by kind of work for the metrics.
"""

import asyncio
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

Log = Callable[[str], object]
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_LONGEST_TEXT = 500

_failures: Counter[str] = Counter()
_lock = threading.Lock()


def to_stderr(line: str) -> None:
    """A log, where there is no better one."""
    print(f"agentcgroup: {line}", file=sys.stderr, flush=True)


def failures() -> dict[str, int]:
    """How often each kind of work has failed in this process."""
    with _lock:
        return dict(_failures)


def failed(work: str, error: BaseException, log: Log, whose: str = "") -> None:
    """Say and count that a piece of ``work`` failed; ``whose`` it was is only said.  May be called in any thread."""
    with _lock:
        _failures[work] += 1
    log(f"{work}{' of ' if whose else ''}{whose} failed: {words(error)}")


def words(error: BaseException) -> str:
    """An unexpected error in one line: what it is, and in which line of this program it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "agentcgroup" in frame.filename] or frames
    where = f" (in {ours[-1].name}, {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno})" if ours else ""
    text = " ".join(str(error).split())[:_LONGEST_TEXT]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def start(work: str, doing: Coroutine[Any, Any, None], log: Log) -> asyncio.Task[None]:
    """A task that says so when it fails."""
    task = asyncio.get_running_loop().create_task(doing, name=work)

    def done(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            failed(work, error, log)

    task.add_done_callback(done)
    return task


async def keep_doing(work: str, do: Callable[[], Awaitable[None]], log: Log) -> None:
    """Do something until it returns; each time it fails it is begun again, after pauses that grow."""
    pause_s = _FIRST_PAUSE_S
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await do()
            return
        except Exception as error:
            failed(work, error, log)
        if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE_S:
            pause_s = _FIRST_PAUSE_S  # it went well for long
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def watch(loop: asyncio.AbstractEventLoop, log: Log) -> None:
    """Say and count what callbacks of an event loop raise, and tasks that nobody asks about."""

    def say(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            failed("a callback", error, log)
        else:
            log(str(context.get("message", "the event loop complains")))

    loop.set_exception_handler(say)
