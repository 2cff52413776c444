"""A program on a terminal of its own, and somebody who types and reads there."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ANSWERS = {
    rb"\x1b\[6n": b"\x1b[1;1R",  # where the cursor is
    rb"\x1b\[0?c": b"\x1b[?62;22c",  # what kind of terminal this is
    rb"\x1b\]10;\?": b"\x1b]10;rgb:ffff/ffff/ffff\x1b\\",  # the colours
    rb"\x1b\]11;\?": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
}
"""What terminals answer when programs ask them; some programs wait for it."""

_SEQUENCES = re.compile(rb"\x1b\[[0-9;?>=<]*[a-zA-Z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")


class Terminal:
    """Starts a program on a terminal of 120 columns; a thread reads what it prints."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.printed = b""
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], list(command), dict(environment))
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while data := os.read(self._descriptor, 65536):
                self.printed += data
                for question, reply in ANSWERS.items():
                    if re.search(question, data):
                        os.write(self._descriptor, reply)

    def text(self) -> str:
        """All that was printed, without what moves the cursor or sets colours."""
        return _SEQUENCES.sub(b" ", self.printed).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 120) -> None:
        """Wait until the program has printed something."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text()):
            assert time.monotonic() < deadline, f"{pattern} did not appear in: {self.text()[-3000:]}"
            time.sleep(0.2)

    def ended(self, seconds: float) -> int | None:
        """The exit status within a time (negative: a signal's number); None when it still runs."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._reader.join(5)
                os.close(self._descriptor)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)
