"""What starting an agent in a session costs: from the start of the command to its exit, the summary included.

Two agents, *true* and *npm* (``tests/agents/starter.js``), each plain, in a session that ``run`` governs itself, and in one of the daemon.
They take turns.  The share that matters is that of an agent as people start it, seconds of its own: what is added is said as notes.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from agentcgroup.session.places import DAEMON_SOCKET
from tests.bench.table import publish
from tests.vm.harness import AGENTS

RUN = [sys.executable, "-m", "agentcgroup", "run", "--"]
WORDS = {"true": ["true"], "npm": ["node", str(AGENTS / "starter.js")]}


@contextlib.contextmanager
def daemon() -> Iterator[None]:
    """A daemon that governs from here on."""
    words = [sys.executable, "-m", "agentcgroup", "daemon", "--metrics", "off"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
        while not DAEMON_SOCKET.exists():
            time.sleep(0.1)
        time.sleep(5)  # until its enforcer is in force
        try:
            yield
        finally:
            one.terminate()


def taken(words: list[str]) -> float:
    """Milliseconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    for place in ("run", "daemon"):
        with daemon() if place == "daemon" else contextlib.nullcontext():
            for turn in range(rounds + 1):
                for name, words in WORDS.items():
                    for variant, command in ((f"{name}, plain", words), (f"{name}, {place}", RUN + words)):
                        if (ms := taken(command)) and turn:  # the first round warms up caches
                            samples.setdefault(variant, []).append(ms)
    middle = {variant: statistics.median(values) for variant, values in samples.items()}
    notes = {
        f"added to {name} by a session of {place}, ms": middle[f"{name}, {place}"] - middle[f"{name}, plain"]
        for name in WORDS
        for place in ("run", "daemon")
    }
    publish("startup", "milliseconds", samples, "true, plain", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
