"""What a storm costs its governor: a fork bomb and an allocator at full speed, with the BPF monitor and with the process connector.

The figures are the governing process's, in percent of one processor, in spans of one second while the storm lasts.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.idle import processor_ns
from tests.bench.table import publish
from tests.vm.harness import SLICE, governor, wait_for

LASTS_S = 12
STORMS = {
    "forks": "{folder}/bomb 12; true",
    "memory": "while :; do {folder}/hog 200; done & sleep 12; kill $!",
}


def storm(events: str, command: str, folder: Path) -> tuple[list[float], dict[str, float]]:
    """One storm; the governor's load in each second, and what its source counted."""
    report, spec = folder / "report.json", folder / "spec.json"
    spec.write_text(json.dumps({"calls": [{"command": command.format(folder=folder)}]}))
    (folder / "policy.yaml").write_text("version: 1\ndefault: {processes: 64}\n")
    agent = [sys.executable, "tests/agents/scripted.py", str(spec), str(folder / "transcript.json")]
    words = [
        "run",
        "--name",
        "storm",
        "--events",
        events,
        "--policy",
        f"{folder}/policy.yaml",
        "--report",
        str(report),
        "--",
        *agent,
    ]
    run = subprocess.Popen([sys.executable, "-m", "agentcgroup", *words], stderr=subprocess.DEVNULL)
    wait_for(SLICE / "agentcgroup-storm.scope/tools/tool-2")
    time.sleep(1)
    pid = governor(run.pid)
    loads = []
    for _ in range(LASTS_S - 4):
        before, began = processor_ns([pid]), time.monotonic_ns()
        time.sleep(1)
        loads.append(100 * (processor_ns([pid]) - before) / (time.monotonic_ns() - began))
    run.wait()
    ended = json.loads(report.read_text())
    figures = {"processes/s": sum(call["processes"] for call in ended["calls"]) / LASTS_S}
    if "records" in ended["source_figures"]:
        figures["records/s"] = ended["source_figures"]["records"] / LASTS_S
    return loads, figures


def main(file: Path, rounds: int) -> None:
    samples: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in ("bomb", "hog"):
            subprocess.run(["gcc", "-O1", "-o", folder / program, f"tests/vm/{program}.c"], check=True)
        for _ in range(rounds):
            for events in ("connector", "bpf"):
                for what, command in STORMS.items():
                    loads, figures = storm(events, command, folder)
                    samples.setdefault(f"{what}, {events}", []).extend(loads)
                    notes.update({f"{what}, {events}: {key}": value for key, value in figures.items()})
    publish("storm", "% of one processor", samples, "forks, connector", file, notes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
