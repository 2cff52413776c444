"""Who may grow, and who waits: a pure state machine from events and time to actions.

Memory is handed out in grants.  A call asks when it has nearly used up its grant, and gets more as long as
everybody who comes before it (by priority, then by age) can still have what it announced, on the host
and in its session (``Line``).  Else it climbs the ladder: it is braked while it uses up its grant, then frozen;
when there is room again, the first that waits goes on.  Nothing waits while there is room.

What a call needs is not known.  It is taken to be what it announced (a hint, or what the same command used before), until
it has had that much and given it back; and for a call that is growing, as much again as it grew in the last
moment.  Where this was too hopeful and those who could free memory all wait for each other, exactly one is killed.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import KeysView
from itertools import count

from agentcgroup.classify import amount
from agentcgroup.model import MIB
from agentcgroup.policy import HostRule
from agentcgroup.schedule import events as ev
from agentcgroup.schedule.events import Action, Key
from agentcgroup.schedule.line import Line
from agentcgroup.schedule.state import Call, Session

LEVELS = {"high": 0, "normal": 1, "low": 2}
ALLOWANCE = 4 * MIB
"""What every call may use without asking: an ``ls``, or a shell.  It comes out of the host's reserve."""
BURST_S = 1.0
"""A call that grew within this time is taken to go on growing: recorded bursts last 1-2 s (arXiv 2602.09345)."""
LOOK_S = 0.1
"""How often, while somebody waits, it is looked whether others have given memory back: the kernel tells only of growth."""
_AT_A_TIME = 16
"""At most so many calls are looked at, and waiting ones considered, at a time."""
_LARGEST_STEP = 1 << 30
_SCARCE_STEPS = 8
_CRUMB = MIB
"""In a deadlock, the first goes on with as little as this."""


class Scheduler:
    """The memory of one host, shared by the calls of its sessions."""

    def __init__(self, rule: HostRule, capacity: int) -> None:
        self._rule = rule
        self._line: Line[Key] = Line(capacity, len(LEVELS))
        self._sessions: dict[str, Session] = {}
        self._calls: dict[Key, Call] = {}
        self._waiting: list[tuple[int, int, Key]] = []
        self._running = 0
        self._victim: Key | None = None
        self._stuck_since_s: float | None = None
        self._seq = count()
        self._deadlines: list[tuple[float, int, Key]] = []
        self._look_at_s: float | None = None
        self._to_look: deque[Key] = deque()
        self._latest: deque[Key] = deque(maxlen=_AT_A_TIME)

    # Events

    def step(self, event: ev.Event, now_s: float) -> list[Action]:
        """The actions that ``event`` calls for.  Events of calls and sessions that are not known are ignored."""
        actions: list[Action] = []
        if isinstance(event, ev.SessionBegan):
            reserve = amount(self._rule.reserve, event.budget)
            line: Line[Key] = Line(event.budget - reserve, reserve=reserve)
            self._sessions.setdefault(event.session, Session(LEVELS[event.priority], line))
        elif isinstance(event, ev.SessionEnded):
            self._session_ended(event.session)
        elif isinstance(event, ev.PriorityChanged):
            self._change_level(event.session, LEVELS[event.priority])
        elif isinstance(event, ev.Capacity):
            self._line.change(event.total, event.reserve)
        elif isinstance(event, ev.CallBegan):
            actions += self._began(event, now_s)
        elif not isinstance(event, ev.Tick) and (call := self._calls.get(event.key)) is not None:
            actions += self._of_call(call, event, now_s)
        actions += self._pass_time(now_s)
        if self._waiting:
            actions += self._resume(now_s)
            actions += self._resolve(now_s)
        else:
            self._line.restore()
        self._look_at_s = (self._look_at_s or now_s + LOOK_S) if self._waiting else None
        return actions

    def change(self, rule: HostRule) -> None:
        """Another rule, for what happens from now on."""
        self._rule = rule

    def live(self) -> KeysView[Key]:
        """All calls that have begun and not ended."""
        return self._calls.keys()

    @property
    def held(self) -> int:
        """Bytes that all calls hold, or were granted."""
        return self._line.held

    def next_deadline(self) -> float | None:
        """When ``Tick`` is due next; None while nobody waits or grows."""
        times = [] if self._look_at_s is None else [self._look_at_s]
        return min([*times, *(at for at, _, _ in self._deadlines[:1])], default=None)

    def _began(self, event: ev.CallBegan, now_s: float) -> list[Action]:
        session = self._sessions.get(event.key[0])
        if session is None or event.key in self._calls:
            return []
        call = Call(event.key, session.level, next(self._seq), event.limit, event.announced, event.held)
        self._calls[event.key] = call
        session.calls.add(event.key)
        self._line.add(call.key, call.level)
        session.line.add(call.key, 0)
        self._to_look.append(call.key)
        self._put(call)
        if event.waits:
            return self._wait(call, now_s, None)
        return [ev.Grant(call.key, max(call.used, ALLOWANCE), max(call.used, ALLOWANCE), self._scarce(call))]

    def _of_call(self, call: Call, event: ev.Event, now_s: float) -> list[Action]:
        if isinstance(event, ev.CallEnded):
            self._forget(call)
        elif isinstance(event, ev.Announced):
            call.announced, call.limit = max(call.announced, event.announced), event.limit
            self._put(call)
        elif isinstance(event, ev.Wants):
            return self._wants(call, event.held, now_s)
        elif isinstance(event, ev.Holds):
            return self._holds(call, event.held, now_s)
        elif isinstance(event, ev.Full):
            return self._full(call, event.held)
        return []

    def _wants(self, call: Call, held: int, now_s: float) -> list[Action]:
        if call.rung == "freeze" or call.killed:
            return []
        call.note_held(held)
        asked_at = call.grant if call.rung else call.ask_at(self._rule.step)
        if held < asked_at:  # it was granted more since it asked
            return [ev.Grant(call.key, call.grant, asked_at, self._scarce(call))]
        if now_s - call.grew_at_s > BURST_S:
            call.grew_from = min(call.grant, held)
        call.grew_at_s = now_s
        self._at(now_s + BURST_S, call)
        self._put(call, growing=True)
        room, blocker = self._room_of(call)
        if room >= self._least(call) and self._may_begin(call):
            return self._grant(call, room, now_s, "there is room for it")
        return self._wait(call, now_s, blocker)

    def _holds(self, call: Call, held: int, now_s: float) -> list[Action]:
        """A call was looked at; what it gave back is free for others, and beyond its grant it wants more, heard or not."""
        if held > max(call.grant, ALLOWANCE) and not call.rung:
            return self._wants(call, held, now_s)
        call.note_held(held)
        spare = call.grant - held
        margin = (1 if self._waiting else 2) * self._rule.step
        if spare <= margin + self._rule.step // 2 or call.rung:
            self._put(call)
            return []
        call.grant = held + margin
        call.grew_from = min(call.grew_from, held)
        self._put(call)
        return [ev.Grant(call.key, call.grant, call.ask_at(self._rule.step), self._scarce(call))]

    def _full(self, call: Call, held: int) -> list[Action]:
        """What it was granted and has not taken is not there: it asks when it grows next, and waits if there is no room."""
        call.note_held(held)
        waits = call.rung == "freeze" or call.killed
        if not waits:
            call.grant = min(call.grant, max(held, ALLOWANCE))
        self._put(call)
        return [] if waits else [ev.Grant(call.key, call.used, call.used, self._scarce(call))]

    # Room

    def _put(self, call: Call, growing: bool = False) -> None:
        """Enter what a call holds, and what it may want, into both lines."""
        session, used = self._sessions[call.key[0]], call.used
        need = call.need(self._rule.step if call.rung or used > ALLOWANCE else 0, growing)
        for line in (self._line, session.line):
            # Nobody can be promised more than there is.
            line.set(call.key, used, max(0, min(need, line.capacity - used)))
        gives_back = 0 if call.rung == "freeze" and not call.killed else used
        self._count_running(session, gives_back - call.gives_back)
        call.gives_back = gives_back

    def _count_running(self, session: Session, change: int) -> None:
        session.running += change
        self._running += change

    def _room_of(self, call: Call) -> tuple[int, Key | None]:
        rooms = self._line.room(call.key), self._sessions[call.key[0]].line.room(call.key)
        return min(rooms, key=lambda room: room[0])

    def _least(self, call: Call) -> int:
        return call.least(self._rule.step, self._line.capacity)

    def _may_begin(self, call: Call) -> bool:
        """One that has not begun stands behind all of its kind who wait and come before it."""
        if call.grant:
            return True
        ahead = (self._calls[key] for level, seq, key in self._waiting[:_AT_A_TIME] if (level, seq) < (call.level, call.seq))
        return all(other.grant or other.killed for other in ahead)

    def _scarce(self, call: Call) -> bool:
        """Whether what it can take before it has an answer might be what others need, on the host or in a session of several."""
        line = self._sessions[call.key[0]].line
        lines = (self._line, line) if len(line) > 1 else (self._line,)
        return bool(self._waiting) or min(one.room(call.key)[0] for one in lines) < _SCARCE_STEPS * self._rule.step

    def _grant(self, call: Call, room: int, now_s: float, why: str) -> list[Action]:
        step = min(room, max(room // 4, 2 * self._rule.step), _LARGEST_STEP)
        actions = self._go(call, now_s, why) if call.rung else []
        call.grant = call.used + step
        call.brake_used = False
        self._put(call, growing=True)
        self._latest.append(call.key)
        return [*actions, ev.Grant(call.key, call.grant, call.ask_at(self._rule.step), self._scarce(call))]

    # Waiting

    def _wait(self, call: Call, now_s: float, blocker: Key | None) -> list[Action]:
        """One rung up: braked as long as it has something left of its grant, then frozen."""
        why = "its turn comes after the other's need" if blocker else "all memory is taken"
        if not call.rung:
            call.since_s = now_s
            insort(self._waiting, (call.level, call.seq, call.key))
        if call.held < call.grant and not call.brake_used and self._rule.brake:
            call.brake_used, call.rung, call.until_s = True, "brake", now_s + self._rule.brake
            actions: list[Action] = [ev.Grant(call.key, call.grant, call.grant, self._scarce(call))]
        else:
            call.rung, call.until_s = "freeze", now_s + self._rule.turn
            actions = []
        self._at(call.until_s, call)
        self._put(call, growing=True)
        return [*actions, ev.Wait(call.key, call.rung or "freeze", call.until_s, blocker or self._latest_but(call), why)]

    def _latest_but(self, call: Call) -> Key | None:
        """The other call that was given memory last."""
        return next((key for key in reversed(self._latest) if key != call.key and key in self._calls), None)

    def _go(self, call: Call, now_s: float, why: str) -> list[Action]:
        self._waiting.remove((call.level, call.seq, call.key))
        waited = now_s - call.since_s
        call.waited_s += waited
        call.rung = ""
        self._put(call)
        return [ev.Go(call.key, waited, why)]

    def _resume(self, now_s: float) -> list[Action]:
        """Those that wait go on in the order of their ranks, while there is room."""
        actions: list[Action] = []
        full: set[str] = set()
        for _, _, key in self._waiting[:_AT_A_TIME]:
            call = self._calls[key]
            if key[0] in full or call.killed:
                continue
            room, _ = self._room_of(call)
            if room >= self._least(call) and self._may_begin(call):
                actions += self._grant(call, room, now_s, "there is room again")
            elif self._line.room(key)[0] < self._rule.step:
                break  # nor is there for those after it
            else:
                full.add(key[0])
        return actions

    def _pass_time(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            call = self._calls.get(heapq.heappop(self._deadlines)[2])
            if call is None or call.killed:
                continue
            if not call.rung:
                if now_s >= call.grew_at_s + BURST_S:
                    self._put(call)
            elif now_s >= call.until_s:
                actions += self._go(call, now_s, "it grew no further") if call.rung == "brake" else self._turn_over(call, now_s)
        if self._look_at_s is not None and now_s >= self._look_at_s:
            self._look_at_s = None
            actions += self._look()
        return actions

    def _look(self) -> list[Action]:
        """Ask some of those that run what they still hold, a few at a time."""
        found: list[Action] = []
        for _ in range(min(_AT_A_TIME, len(self._to_look))):
            call = self._calls.get(self._to_look.popleft())
            if call is None:
                continue
            self._to_look.append(call.key)
            if call.rung != "freeze" and call.used > ALLOWANCE:
                found.append(ev.Look(call.key))
        return found

    def _turn_over(self, call: Call, now_s: float) -> list[Action]:
        """It has been frozen for a whole turn: one that took memory meanwhile has to stand behind it now."""
        if call.waited_s + now_s - call.since_s >= self._rule.patience:
            return self._last_rung(call, now_s)
        other = self._latest_but(call)
        # In vain if what it needs is held by others: they would only wait for each other.
        free = self._line.free >= self._least(call)
        if (
            free
            and other is not None
            and (ahead := self._calls[other]).level == call.level
            and not ahead.rung
            and ahead.seq < call.seq
        ):
            self._send_back(ahead)
        call.until_s = now_s + self._rule.turn
        self._at(call.until_s, call)
        return [ev.Wait(call.key, "freeze", call.until_s, other, "it waits on; others of its priority stand behind it now")]

    def _send_back(self, call: Call) -> None:
        """To the end of those of its priority."""
        session = self._sessions[call.key[0]]
        if call.rung:
            self._waiting.remove((call.level, call.seq, call.key))
        self._line.remove(call.key)
        session.line.remove(call.key)
        call.level, call.seq = session.level, next(self._seq)
        self._line.add(call.key, call.level)
        session.line.add(call.key, 0)
        if call.rung:
            insort(self._waiting, (call.level, call.seq, call.key))
        self._put(call)

    def _change_level(self, name: str, level: int) -> None:
        """The calls of a session come after those that had its new priority before."""
        session = self._sessions.get(name)
        if session is not None and session.level != level:
            session.level = level
            for key in sorted(session.calls, key=lambda key: self._calls[key].seq):
                self._send_back(self._calls[key])

    def _at(self, time_s: float, call: Call) -> None:
        heapq.heappush(self._deadlines, (time_s, next(self._seq), call.key))

    # When waiting does not help

    def _resolve(self, now_s: float) -> list[Action]:
        """If all who could free memory are frozen, the first gets what is left; if they stay so for a moment, one has to go."""
        if self._victim is not None:
            return []
        found = self._stuck()
        if found is None:
            self._stuck_since_s = None
            return []
        first, line, keys = found
        lacks = self._least(first) - self._room_of(first)[0]
        if (room := self._room_of(first)[0] + line.lend(lacks)) >= min(self._least(first), _CRUMB):
            return self._grant(first, min(room, self._rule.step), now_s, "all wait for each other: the first gets what is left")
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
            self._at(now_s + BURST_S, first)
        if now_s < self._stuck_since_s + BURST_S:
            return []
        frozen = [call for key in keys if (call := self._calls[key]).rung == "freeze"]
        # One whose end is enough, for another would go in vain; of these the lowest priority; then the largest; then the youngest.
        victim = max(frozen, key=lambda call: (call.used >= lacks and call is not first, call.level, call.used, call.seq))
        why = (f"{len(frozen)} calls wait for each other: the first lacks {lacks >> 20} MiB; of the lowest priority"
               f"{', large enough' if victim.used >= lacks else ''} and the largest, it holds {victim.used >> 20} MiB")  # fmt: skip
        return self._kill(victim, now_s, why)

    def _stuck(self) -> tuple[Call, Line[Key], list[Key]] | None:
        """The first in a line who waits in vain, the line, and all who wait in it."""
        seen: set[str] = set()
        for number, (_, _, key) in enumerate(self._waiting[:_AT_A_TIME]):
            call, session = self._calls[key], self._sessions[key[0]]
            if call.rung != "freeze":
                return None  # it may end, and give back what it holds
            if key[0] in seen:
                continue
            if number == 0 and self._in_vain(call, self._line, self._running):
                return call, self._line, [key for _, _, key in self._waiting]
            if self._in_vain(call, session.line, session.running):
                return call, session.line, [other for _, _, other in self._waiting if other[0] == key[0]]
            seen.add(key[0])
        return None

    def _in_vain(self, call: Call, line: Line[Key], running: int) -> bool:
        room, blocker = line.room(call.key)
        return (blocker is None or self._calls[blocker].rung == "freeze") and room + running < self._least(call)

    def _last_rung(self, call: Call, now_s: float) -> list[Action]:
        """It has waited for as long as is allowed: one of a lower priority goes, or else it."""
        lower = [one for one in self._calls.values() if one.level > call.level and one.used >= self._rule.step and not one.killed]
        victim = max(lower, key=lambda one: (one.level, one.seq), default=call)
        waited = call.waited_s + now_s - call.since_s
        if victim is call:
            return self._kill(call, now_s, f"it has waited {waited:.0f} s for memory, and nothing of a lower priority holds any")
        call.until_s = now_s + self._rule.turn
        self._at(call.until_s, call)
        return self._kill(
            victim, now_s, f"a call of a higher priority has waited {waited:.0f} s, and it is the youngest of the lowest"
        )

    def _kill(self, call: Call, now_s: float, why: str) -> list[Action]:
        call.killed = True
        self._victim = call.key
        self._stuck_since_s = None
        self._put(call)
        waited = call.waited_s + (now_s - call.since_s if call.rung else 0.0)
        return [ev.Kill(call.key, call.held, self._line.capacity, waited, why)]

    # The end

    def _forget(self, call: Call) -> None:
        session = self._sessions[call.key[0]]
        if call.rung:
            self._waiting.remove((call.level, call.seq, call.key))
        self._count_running(session, -call.gives_back)
        self._line.remove(call.key)
        session.line.remove(call.key)
        session.calls.discard(call.key)
        if self._victim == call.key:
            self._victim = None
        del self._calls[call.key]

    def _session_ended(self, name: str) -> None:
        session = self._sessions.get(name)
        if session is not None:
            for key in list(session.calls):
                self._forget(self._calls[key])
            del self._sessions[name]
