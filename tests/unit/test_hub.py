"""Many sessions on one source: each gets its own events, in order, and those that are nobody's in particular."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
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
        self.drained = self.told = 0

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
            self.drained += 1
            deliver(event)

    def position(self) -> int:
        return self.drained

    def acted(self, position: int) -> None:
        self.told = position

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

    hub.all_known()
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
        hub.all_known()
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


def test_nothing_is_taken_out_before_all_sessions_of_an_earlier_daemon_are_there() -> None:
    async def run() -> list[tuple[int, list[Event]]]:
        feed, got, moments = Feed(), list[Event](), []
        hub = Hub(feed)
        first, second, failed = hub.part(), hub.part(), hub.part()
        for event in (Emptied(number(Path("/usr"))), Emptied(number(Path("/etc")))):
            feed.put(event)

        async def take_up(part: Part, folder: Path) -> None:
            part.on_ready(lambda: part.drain(got.append))
            await asyncio.to_thread(part.watch_agent, folder)
            await part.begun()
            part.drain(got.append)

        for step in (
            lambda: asyncio.ensure_future(take_up(first, Path("/usr"))),
            hub.all_known,
            lambda: asyncio.ensure_future(take_up(second, Path("/etc"))),
            failed.close,
        ):
            step()
            await asyncio.sleep(0.05)
            moments.append((len(feed.events), list(got)))
        hub.close()
        return moments

    seen = [Emptied(number(Path("/usr"))), Emptied(number(Path("/etc")))]
    assert asyncio.run(run()) == [(2, []), (2, []), (2, []), (0, seen)]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=30), st.sampled_from([-1.0, 10.0]))
def test_the_source_is_told_how_far_all_have_acted_and_never_further(steps: list[tuple[int, bool]], turn_s: float) -> None:
    """Each step is an event for one of three sessions, and whether the loop runs before the next; one session is slow.

    A session's turn lasts for one event, or for all that wait.
    """
    folders = [Path(name) for name in ("/etc", "/usr", "/var")]

    async def run() -> None:
        feed, done, called = Feed(), set[int](), list[int]()

        def check(handed_out: int) -> None:
            called.append(handed_out)
            assert set(range(handed_out)) <= done
            assert feed.told >= handed_out

        monkeypatch.setattr("agentcgroup.sources.hub._TURN_S", turn_s)
        hub, beginning = Hub(feed), list[asyncio.Future[None]]()
        for at, folder in enumerate(folders):
            part = hub.part()
            part.watch_call(folder)

            def drain(part: Part = part, slow: bool = at == 2) -> None:
                if not slow or len(done) % 2:
                    part.drain(lambda event: done.add(event.pid))  # type: ignore[union-attr]

            part.on_ready(drain)
            beginning.append(asyncio.ensure_future(part.begun()))
        hub.all_known()
        await asyncio.gather(*beginning)
        for at, (who, pause) in enumerate(steps):
            feed.put(Execed(at, at, number(folders[who])))
            if pause:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert set(range(feed.told)) <= done
            hub.when_acted(partial(check, feed.drained))
        for _ in range(len(steps) + 5):
            await asyncio.sleep(0)
        assert set(range(feed.told)) <= done
        if all(who < 2 for who, _ in steps):
            assert feed.told == len(steps)
            assert len(called) == len(steps)
        hub.close()

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(run())


def test_what_a_session_has_not_finished_is_told_to_the_next_reader_again_unless_the_session_is_over() -> None:
    async def run() -> list[int]:
        feed, told = Feed(), list[int]()
        hub = Hub(feed)
        hub.all_known()
        part = hub.part()
        part.watch_call(Path("/etc"))

        def drain() -> None:
            part.unfinished(True)
            part.drain(lambda event: None)

        part.on_ready(drain)
        steps: list[Callable[[], object]] = [
            partial(part.unfinished, False), list, partial(part.on_ready, None), partial(part.unfinished, True)
        ]  # fmt: skip
        for step in steps:
            feed.put(Emptied(number(Path("/etc"))))
            await asyncio.sleep(0.05)
            told.append(feed.told)
            step()
        hub.acted()
        hub.close()
        return [*told, feed.told]

    # The second event tells how far the first one came; when the session is over, all is done with.
    assert asyncio.run(run()) == [0, 1, 1, 4, 4]


def test_a_session_with_much_to_take_in_does_not_keep_the_others_waiting() -> None:
    async def run() -> list[str]:
        feed, order = Feed(), list[str]()
        hub = Hub(feed)
        hub.all_known()
        for name in ("/etc", "/usr"):
            part = hub.part()
            part.watch_call(Path(name))

            def drain(part: Part = part, name: str = name) -> None:
                part.drain(lambda event: order.append(name))

            part.on_ready(drain)
        for name in ("/etc", "/etc", "/etc", "/usr"):
            feed.put(Emptied(number(Path(name))))
        await asyncio.sleep(0.05)
        hub.close()
        return order

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("agentcgroup.sources.hub._TURN_S", -1.0)
        assert asyncio.run(run()) == ["/etc", "/usr", "/etc", "/etc"]
