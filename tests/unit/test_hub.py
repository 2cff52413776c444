"""Many sessions on one source: each gets its own events, in order, and those that are nobody's in particular."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agentcgroup.cgroup import number
from agentcgroup.sources import Emptied, Event, Execed, Lost, Source
from agentcgroup.sources.hub import Hub, Part


class Feed(Source):
    """A source whose events a test writes."""

    name = "feed"
    sees_inside = True

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.events: list[Event] = []

    def put(self, event: Event) -> None:
        self.events.append(event)
        os.write(self.writer, b"x")

    def fileno(self) -> int:
        return self.reader

    def drain(self, deliver: Callable[[Event], None]) -> None:
        try:
            os.read(self.reader, 65536)
        except BlockingIOError:
            return
        events, self.events = self.events, []
        for event in events:
            deliver(event)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


async def served(feed: Feed, folders: list[Path], events: list[Event]) -> tuple[list[list[Event]], int]:
    """What each of some sessions, one for each folder, is given; and how many times they were called."""
    hub = Hub(feed)
    got: list[list[Event]] = [[] for _ in folders]
    times = 0

    def begin(at: int, folder: Path) -> None:
        part = hub.part()
        part.watch_agent(folder)

        def drain() -> None:
            nonlocal times
            times += 1
            part.drain(got[at].append)

        part.on_ready(drain)

    for at, folder in enumerate(folders):
        begin(at, folder)
    for event in events:
        feed.put(event)
    for _ in range(5):
        await asyncio.sleep(0)
    hub.close()
    return got, times


@given(st.lists(st.integers(0, 4), max_size=40))
def test_each_session_gets_its_own_events_in_order_and_all_get_those_of_nobody(whose: list[int]) -> None:
    folders = [Path(name) for name in ("/etc", "/usr", "/var", "/opt")]
    events: list[Event] = []
    for at, who in enumerate(whose):
        events.append(Lost() if who == 4 else Execed(at, at, number(folders[who])))
    got, times = asyncio.run(served(Feed(), folders, events))
    for mine, seen in enumerate(got):
        assert seen == [event for event, who in zip(events, whose, strict=True) if who in (mine, 4)]
    assert times <= len(folders)


def test_what_was_forgotten_reaches_nobody_and_a_session_that_left_is_not_called() -> None:
    async def run() -> list[Event]:
        feed, got = Feed(), list[Event]()
        hub = Hub(feed)
        staying, leaving = hub.part(), hub.part()
        for part, folder in ((staying, Path("/usr")), (leaving, Path("/etc"))):
            part.watch_call(folder)

            def drain(part: Part = part) -> None:
                part.drain(got.append)

            part.on_ready(drain)
        leaving.on_ready(None)
        feed.put(Emptied(number(Path("/usr"))))
        feed.put(Emptied(number(Path("/etc"))))
        await asyncio.sleep(0.01)
        staying.forget(number(Path("/usr")))
        feed.put(Emptied(number(Path("/usr"))))
        await asyncio.sleep(0.01)
        hub.close()
        return got

    assert asyncio.run(run()) == [Emptied(number(Path("/usr")))]


def test_what_happened_before_a_session_was_found_waits_for_it_and_only_for_it() -> None:
    async def run(patience_s: float) -> list[Event]:
        feed, got = Feed(), list[Event]()
        hub = Hub(feed, patience_s)
        early, others = (Emptied(number(Path(name))) for name in ("/usr", "/etc"))
        for event in (early, others, Lost()):
            feed.put(event)
        await asyncio.sleep(0.01)
        part = hub.part()
        await asyncio.to_thread(part.watch_agent, Path("/usr"))
        part.on_ready(lambda: part.drain(got.append))
        part.drain(got.append)
        hub.close()
        return got

    assert asyncio.run(run(60.0)) == [Emptied(number(Path("/usr")))]
    assert asyncio.run(run(0.0)) == []
