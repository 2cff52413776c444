"""The published isolation experiment (arXiv 2602.09345): one run of high priority and two of low share a host that is too small.

Each run is one process that follows the recorded memory of a whole agent run, with 100 MiB on top (421 and twice 406 MiB at the
peak), 20 times as fast as recorded, swap off.  In turn, with the memory of all three together limited to each size:

* none: only that limit; the kernel kills when it is reached;
* static: each gets a third;
* poller: a loop that looks at the pressure every 100 ms and kills the largest of the lowest priority, as existing daemons do;
* ours+hints: agentcgroup, each process says what it needs at most; ours: nothing is said; each by the enforcer after the @.

"spare" (no limit) and "alone" (the high one only) are what they are compared with; ``bound`` is what nobody can beat.
AGENTCGROUP_SIZES="1100 900" chooses sizes.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from agentcgroup import cgroup
from agentcgroup.enforce import Choice
from agentcgroup.host.arbiter import SOCKET
from agentcgroup.kernel import scheduler
from agentcgroup.model import MIB
from agentcgroup.replay import perform
from agentcgroup.replay.perform import Entry, Outcome, Settings, Starter
from agentcgroup.replay.traces import choose, default_file, load
from tests.bench import bound

SPEED = 20.0
BASE = 100 * MIB
ENFORCERS = ["cgroup"] if scheduler.lacking() else ["cgroup", "sched_ext"]
VARIANTS = ["none", "static", "poller", *(f"{ours}@{enforcer}" for ours in ("ours+hints", "ours") for enforcer in ENFORCERS)]
SIZES = [int(size) for size in os.environ.get("AGENTCGROUP_SIZES", "1100 900 700 1300 1500").split()]
PERIOD_S = 0.1
PRESSURE = 20.0
FULL = 0.95


def entries() -> list[Entry]:
    runs = load(default_file())
    high, low = choose(runs, "dask/dask-11628@haiku"), choose(runs, "sigmavirus24/github3.py-673@haiku")
    return [
        Entry("high", high, "high", as_one=True, base=BASE),
        Entry("low-1", low, "low", as_one=True, base=BASE),
        Entry("low-2", low, "low", as_one=True, base=BASE),
    ]


@contextlib.contextmanager
def poller(size: int) -> Iterator[Starter]:
    """Plain cgroups, and a loop beside them that kills when the pressure is high or memory nearly full."""
    over = threading.Event()

    def look() -> None:
        top = cgroup.mount_point() / f"agentcgroup-replay-{os.getpid()}"
        while not over.wait(PERIOD_S):
            with contextlib.suppress(cgroup.CgroupError, ValueError):
                full = int(cgroup.read(top, "memory.current")) > FULL * size
                if full or cgroup.read_pressure(top, "memory")["full"]["avg10"] > PRESSURE:
                    low = [place for place in top.iterdir() if place.name.startswith("low") and cgroup.populated(place)]
                    cgroup.kill(max(low, key=lambda place: int(cgroup.read(place, "memory.current"))))

    with perform.plain_cgroups(size) as start:
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield start
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def sessions(size: int, enforcer: Choice) -> Iterator[Starter]:
    """Sessions on a host whose enforcer is in force already, as on a host that has been up for a while."""
    perform.wait_for_quiet_host()
    state = scheduler.STATE / "state"
    with perform.limited_sessions(size or None, enforcer) as start:
        words = [sys.executable, "-m", "agentcgroup", "run", "--name", "first", "--enforcer", enforcer, "--", "sleep", "1000"]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
            try:
                while not SOCKET.exists() or (enforcer == "sched_ext" and state.read_text().strip() != "enabled"):
                    time.sleep(0.1)
                yield start
            finally:
                first.terminate()


def place(variant: str, size: int) -> Any:
    if "ours" in variant:
        return sessions(size, cast("Choice", variant.partition("@")[2] or "cgroup"))
    if variant == "poller":
        return poller(size)
    return perform.plain_cgroups(None if variant in ("spare", "alone") else size, size // 3 if variant == "static" else None)


def run(variant: str, size: int) -> list[Outcome]:
    chosen = entries()[:1] if variant.startswith("alone") else entries()
    settings = Settings(speed=SPEED, cpu=False, hints=variant.startswith("ours+hints"))
    with place(variant, size * MIB) as start:
        return perform.play(chosen, settings, start)


def last(outcomes: list[Outcome]) -> float | None:
    """When the last one finished, if all did."""
    times = [outcome.took_s for outcome in outcomes]
    return None if None in times else max(time for time in times if time is not None)


def summarize(rounds: list[dict[str, Any]], size: int) -> None:
    def of(variant: str) -> list[list[Outcome]]:
        return [one["outcomes"] for one in rounds if one["variant"] == variant and one["size"] in (size, 0)]

    spare = statistics.median(time for outcomes in of("spare") if (time := last(outcomes)) is not None)
    alone = of("alone")
    high_alone = statistics.median(outcomes[0].took_s or 0.0 for outcomes in alone)
    alone_p95 = p95([step for outcomes in alone for step in outcomes[0].step_s])
    print(
        f"\n{size} MiB: spare: last finished after {spare:.2f} s; high alone: {high_alone:.2f} s, p95 of its steps {1000 * alone_p95:.1f} ms"
    )
    high, low, _ = (bound.profile(entry.run, SPEED, entry.base) for entry in entries())
    if (slots := bound.earliest(high, low, size)) is not None:
        print(
            f"at best, with all known before, nothing else in memory, and high never waiting: {slots / max(len(high), len(low)):.2f}"
        )
    print(
        f"{'variant':20} {'survived':>9} {'last/spare':>11} {'worst':>6} {'high/alone':>11} {'high p95 ms':>12} {'waits':>6} {'waited s':>9}"
    )
    for variant in dict.fromkeys(one["variant"] for one in rounds if one["size"] == size):
        found = of(variant)
        alive = sum(outcome.took_s is not None for outcomes in found for outcome in outcomes)
        lasts = [time / spare for outcomes in found if (time := last(outcomes)) is not None]
        highs = [outcomes[0].took_s / high_alone for outcomes in found if outcomes[0].took_s is not None]
        steps = [step for outcomes in found for step in outcomes[0].step_s]
        waits, waited = (
            sum(getattr(outcome, name) for outcomes in found for outcome in outcomes) for name in ("waits", "waited_s")
        )
        print(f"{variant:20} {alive:4}/{3 * len(found):<4} {middle(lasts):>11} {max(lasts, default=float('nan')):6.2f} {middle(highs):>11} "
              f"{1000 * p95(steps):12.1f} {waits:6} {waited:9.1f}")  # fmt: skip


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else "-"


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else float("nan")


def main(file: Path, rounds: int) -> None:
    done: list[dict[str, Any]] = []
    run("spare", 0)  # warms up
    for number in range(rounds):
        for variant, size in [("spare", 0), ("alone", 0), ("alone, ours", 0), *((variant, size) for size in SIZES for variant in
                              os.environ.get("AGENTCGROUP_VARIANTS", ",".join(VARIANTS)).split(","))]:  # fmt: skip
            outcomes = run(variant, size)
            done.append({"round": number, "variant": variant, "size": size, "outcomes": outcomes})
            words = ", ".join(f"{one.name} {'dead' if one.took_s is None else f'{one.took_s:.2f} s'}" for one in outcomes)
            print(f"round {number + 1}, {size or 'no'} limit, {variant}: {words}", flush=True)
            for one in outcomes:
                if one.deeds and (one.took_s is None or os.environ.get("AGENTCGROUP_VERBOSE")):
                    print(f"  {one.name}: " + "\n    ".join(one.deeds), flush=True)
    for size in SIZES:
        summarize(done, size)
    plain = [{**one, "outcomes": [asdict(outcome) for outcome in one["outcomes"]]} for one in done]
    file.write_text(json.dumps({"name": "isolation", "kernel": os.uname().release, "runs": plain}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
