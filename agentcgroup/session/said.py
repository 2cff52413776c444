"""What calls say of themselves: what their command is, and the hints in their environment."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from agentcgroup import control_events as ctl
from agentcgroup import process
from agentcgroup.hints import parse_hint
from agentcgroup.session.live import HINTS_AT_ONCE, HINTS_PER_S, Live

_MOST_COMPLAINTS = 100
"""Different ones of a session: what a call says of itself is text of its choice."""

_MOST_LOOKS = 20
"""In a second.  One look at two megabytes takes about a millisecond."""


class Said:
    """Listens to the live calls of a session.

    What is told while processes are still being placed waits until ``settle``: a call's own class is known then.
    """

    def __init__(
        self, live: Mapping[int, Live], sees_inside: bool, command_known: Callable[[Live], None], step: Callable[[ctl.Event], None],
        log: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``command_known`` is told of a call whose command (``record.argv``) is known now; ``step`` gets hints."""
        self._live, self._sees_inside = live, sees_inside
        self._command_known, self._step, self._log = command_known, step, log
        self._complained: set[str] = set()
        self._execs: deque[tuple[int, int, tuple[str, ...]]] = deque()
        self._hints: deque[tuple[int, str]] = deque()
        self._unread: deque[tuple[int, int]] = deque()
        self._looked: deque[float] = deque(maxlen=_MOST_LOOKS)

    def execed(self, call: int, pid: int, argv: tuple[str, ...]) -> None:
        """A process of a call started a program: its environment may hold a hint, and it may be the awaited command.

        ``argv``: its arguments, where the source told them.
        """
        self._execs.append((call, pid, argv))
        live = self._live.get(call)
        if live is not None and not live.record.argv and pid == live.record.pid:
            live.record.argv = argv  # the call may be over before ``settle``

    def hint_seen(self, call: int, text: str) -> None:
        """The kernel saw a hint at a program's start."""
        self._hints.append((call, text))

    def hint_unread(self, call: int, pid: int) -> None:
        """The kernel did not look at all of a new program's environment."""
        self._unread.append((call, pid))

    def settle(self) -> None:
        """Look at what was told."""
        while self._execs:
            call, pid, argv = self._execs.popleft()
            if (live := self._live.get(call)) is not None:
                self._look_at(live, pid, argv)
        while self._hints:
            call, text = self._hints.popleft()
            if call in self._live:
                self.hinted(self._live[call], text)
        while self._unread:
            call, pid = self._unread.popleft()
            if call in self._live and self._may_look(time.monotonic()):
                self.hinted(self._live[call], process.hint_text(pid))

    def _may_look(self, now_s: float) -> bool:
        """Large environments are looked at so often: a call that starts programs with them all the time must not keep us busy."""
        if len(self._looked) == _MOST_LOOKS and now_s < self._looked[0] + 1.0:
            return False
        self._looked.append(now_s)
        return True

    def _look_at(self, live: Live, pid: int, argv: tuple[str, ...]) -> None:
        if live.awaits_command and pid == live.record.pid:
            self._command(live, argv or process.command_line(pid))
        if not self._sees_inside:
            self.hinted(live, process.hint_text(pid))

    def _command(self, live: Live, argv: tuple[str, ...]) -> None:
        if argv:
            live.awaits_command = False
            live.record.argv = argv
            self._command_known(live)

    def hinted(self, live: Live, text: str | None) -> None:
        """A hint was given for the call, in an environment or in the command's own text."""
        if not text or text == live.hint_text:
            return
        if self._too_many(live):
            return
        live.hint_text = text
        hint, complaints = parse_hint(text)
        for complaint in complaints:
            if complaint not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
                self._complained.add(complaint)
                self._log(f"call {live.record.call}: {complaint}")
        if hint:
            live.record.hint = hint
            self._step(ctl.Hinted(live.record.call, hint))

    def _too_many(self, live: Live) -> bool:
        """Whether a call gives more hints than it may; said once for each call."""
        now = time.monotonic()
        live.hints_left = min(HINTS_AT_ONCE, live.hints_left + (now - live.hinted_s) * HINTS_PER_S)
        live.hinted_s = now
        if live.hints_left < 1:
            if not live.hints_refused:
                self._log(f"call {live.record.call}: more than {HINTS_AT_ONCE:.0f} different hints at once: the rest is ignored")
            live.hints_refused = True
            return True
        live.hints_left -= 1
        return False

    def stated(self, call: int, argv: tuple[str, ...], hint: str) -> Path | None:
        """The call's command is this; returns the leaf."""
        live = self._live.get(call)
        if live is None:
            return None
        self._command(live, argv)
        self.hinted(live, hint)
        return live.leaf

    def await_command(self, call: int) -> Path | None:
        """The next exec of the call's root is its command; returns the leaf."""
        live = self._live.get(call)
        if live is None:
            return None
        live.awaits_command = True
        return live.leaf
