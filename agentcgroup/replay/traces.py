"""Recorded agent runs: one JSON object a line, perhaps compressed.

``samples`` are ``[seconds, memory in MB, CPU in % of one core]``; ``calls`` have ``t`` and ``end`` (seconds since the first
sample; ``end`` null if unknown), ``tool``, and perhaps its ``command``.  A megabyte of memory is played as a mebibyte.
"""

import gzip
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import MIB

VARIABLE = "AGENTCGROUP_TRACES"
"""Names the file of recorded runs."""
UNKNOWN_END_S = 1.0
"""How long a call is taken to have lasted whose end is not recorded."""


class _Call(BaseModel):
    t: float
    end: float | None = None
    tool: str = ""
    command: str = ""


class _Run(BaseModel):
    model_config = ConfigDict(extra="ignore")
    task: str
    model: str = ""
    samples: list[tuple[float, float, float]]
    calls: list[_Call] = []


class Sample(NamedTuple):
    """What was measured at a time (seconds since the first): bytes, and processors in use (1.0 = one core)."""

    at_s: float
    memory: int
    cpu: float


class ToolCall(NamedTuple):
    """One command of the agent: from when to when (seconds since the first sample), and its text."""

    from_s: float
    to_s: float
    command: str


class Run(NamedTuple):
    """One recorded run."""

    task: str
    model: str
    samples: tuple[Sample, ...]
    calls: tuple[ToolCall, ...]

    @property
    def peak(self) -> int:
        """The most memory of any sample, in bytes."""
        return max(sample.memory for sample in self.samples)

    @property
    def duration_s(self) -> float:
        """From the first sample to the last."""
        return self.samples[-1].at_s - self.samples[0].at_s


def default_file() -> Path:
    """The file that the environment names.  Raises AgentCgroupError where it names none."""
    if name := os.environ.get(VARIABLE):
        return Path(name)
    raise AgentCgroupError("no recorded runs", f"{VARIABLE} is not set", f"give a file of recorded runs, or set {VARIABLE}")


def load(file: Path) -> list[Run]:
    """Read and check a file of recorded runs.  Raises AgentCgroupError that names the line."""
    number = 0
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else open(file) as lines:
            found = []
            for number, line in enumerate(lines, 1):  # noqa: B007
                if line.strip():
                    found.append(_checked(_Run.model_validate_json(line)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AgentCgroupError(
            f"{file}:{number}: not a recorded run", f"{where}: {first['msg']}", "see replay/traces.py"
        ) from None
    except ValueError as error:
        raise AgentCgroupError(f"{file}:{number}: not a recorded run", str(error), "see replay/traces.py") from None
    except OSError as error:
        raise AgentCgroupError(f"{file} can't be read", error.strerror or str(error), "give a readable file") from None
    if not found:
        raise AgentCgroupError(f"{file} holds no recorded run", do="give another file")
    return found


def _checked(run: _Run) -> Run:
    times = [at_s for at_s, _, _ in run.samples]
    if len(times) < 2 or any(later <= earlier for earlier, later in itertools.pairwise(times)):
        raise ValueError("samples: at least two, each later than the one before")
    if any(memory < 0 or cpu < 0 for _, memory, cpu in run.samples):
        raise ValueError("samples: memory and CPU can't be negative")
    samples = tuple(Sample(at_s, int(memory * MIB), cpu / 100) for at_s, memory, cpu in run.samples)
    calls = tuple(
        ToolCall(call.t, max(call.t, call.end if call.end is not None else call.t + UNKNOWN_END_S), call.command or call.tool)
        for call in sorted(run.calls, key=lambda call: call.t)
    )
    return Run(run.task, run.model, samples, calls)


def choose(runs: Sequence[Run], name: str) -> Run:
    """The run with this task, or ``TASK@MODEL``; the first of several.  Raises AgentCgroupError that offers some."""
    task, _, model = name.partition("@")
    found = [run for run in runs if run.task == task and run.model.startswith(model)]
    if found:
        return found[0]
    known = ", ".join(sorted({run.task for run in runs})[:5])
    raise AgentCgroupError(f"no recorded run {name!r}", f"there are {known}, ...", "give TASK or TASK@MODEL")
