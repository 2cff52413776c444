"""One replayed agent: a process that has the memory and uses the processors as recorded, and whose tool calls are its children.

Started by ``run.py`` as ``python player.py PLAN.json RESULT.json``; waits for a line on its standard input, so that several
start together.  Imports little, for what it needs itself is charged to the agent that it plays.
"""

import json
import mmap
import os
import sys
import time
from typing import Any

PAGE = 4096
LARGEST_STEP = 64 << 20
"""Memory is taken in steps of at most this, as in the published experiment (arXiv 2602.09345)."""

OWN_MIB = 16
"""What a player itself may need, beside what it plays."""


class Memory:
    """Anonymous memory of a wanted size, each page of it touched."""

    def __init__(self, most: int) -> None:
        self._map = mmap.mmap(-1, max(PAGE, most), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_DONTFORK)
        self._size = 0
        self.step_s: list[float] = []

    def be(self, size: int) -> None:
        """Grow or shrink to ``size`` bytes; how long a way up took is noted."""
        size = size // PAGE * PAGE
        if size < self._size:
            self._map.madvise(mmap.MADV_DONTNEED, size, self._size - size)
        elif size > self._size:
            began = time.monotonic()
            for at in range(self._size, size, LARGEST_STEP):
                end = min(at + LARGEST_STEP, size)
                self._map[at:end:PAGE] = bytes((end - at) // PAGE)
            self.step_s.append(time.monotonic() - began)
        self._size = size


def play(part: dict[str, Any], speed: float, use_cpu: bool, beginning: float, steps: list[float]) -> float:
    """Play the memory of one part, from ``beginning`` on; returns by how much it was late at the end, in seconds.

    What is late stays late: the time between two points is never shortened.
    """
    memory = Memory(max((size for _, size in part["points"]), default=0))
    length = max(part["to_s"] - part["from_s"], 1e-9)
    share = part["cpu_s"] / length if use_cpu else 0.0
    late, last = 0.0, 0.0
    for at_s, size in [*part["points"], (length, 0)]:
        late += wait_until(beginning + at_s / speed + late, min(1.0, share) * (at_s - last) / speed)
        last = at_s
        memory.be(size)
    steps.extend(memory.step_s)
    return late


def wait_until(moment: float, busy_s: float) -> float:
    """Compute for ``busy_s`` and sleep until ``moment``; returns how late it is then."""
    end = time.monotonic() + busy_s
    while time.monotonic() < end:
        pass
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)
    return max(0.0, time.monotonic() - moment - 0.002)


def tool_call(part: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """Play a part as a tool call: a child of ours, in a leaf of its own where there is a session; returns how it went."""
    ours, theirs = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            if plan["session"]:
                declare(part, plan)
            steps: list[float] = []
            play(part, plan["speed"], plan["cpu"], time.monotonic(), steps)
            os.write(theirs, json.dumps(steps).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    took = time.monotonic() - began
    return {
        "code": status,
        "took_s": took,
        "planned_s": (part["to_s"] - part["from_s"]) / plan["speed"],
        "steps_s": json.loads(text or "[]"),
    }


def declare(part: dict[str, Any], plan: dict[str, Any]) -> None:
    """Say that this process is a tool call, and what it needs if the plan says so."""
    from agentcgroup.call_client import declare as ask
    from agentcgroup.call_client import own_session

    request = {"op": "call", "argv": ["sh", "-c", part["command"][:1000]]}
    if plan["hints"]:
        request["hint"] = f"memory:{OWN_MIB + (max(size for _, size in part['points']) >> 20)}M"
    try:
        ask(own_session(), json.dumps(request))
    except (OSError, ValueError) as error:  # as with ``agentcgroup exec``
        print(f"playing a call without a cgroup of its own: {error}", file=sys.stderr)


def perform(plan: dict[str, Any]) -> dict[str, Any]:
    """Play a whole plan: the agent's memory between its calls, each call when its time has come."""
    calls = []
    began = time.monotonic()
    own = Memory(max((size for _, size in plan["agent"]["points"]), default=0))
    todo = [(part["from_s"], 1, part) for part in plan["calls"]] + [(at_s, 0, size) for at_s, size in plan["agent"]["points"]]
    late, last = 0.0, 0.0
    share = plan["agent"]["cpu_s"] / max(plan["agent"]["to_s"], 1e-9) if plan["cpu"] else 0.0
    for at_s, is_call, what in sorted(todo, key=lambda one: one[:2]):
        late += wait_until(began + at_s / plan["speed"] + late, min(1.0, share) * max(0.0, at_s - last) / plan["speed"])
        last = at_s
        if is_call:
            calls.append(tool_call(what, plan))
            last = what["to_s"]
        else:
            own.be(what)
    used = os.times()
    return {
        "took_s": time.monotonic() - began, "agent_steps_s": own.step_s, "calls": calls,
        "cpu_s": used.user + used.system, "children_cpu_s": used.children_user + used.children_system,
    }  # fmt: skip


def main() -> int:
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    sys.path.append(plan["tree"])
    if plan["session"]:
        import agentcgroup.call_client  # noqa: F401  once here, not in each call
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        return 1
    result = perform(plan)
    with open(sys.argv[2], "w") as file:
        json.dump(result, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
