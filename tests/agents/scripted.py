"""An agent that does as it is told: runs the calls of a JSON file, keeps what each returned.

Usage: scripted.py SPEC.json TRANSCRIPT.json.  The file holds {"calls": [{"command", "stderr", "after"}], "parallel": N}; ``stderr`` is
where a call's stderr goes, as the agents of this world differ: ``pipe``, ``pty`` or ``file`` (one regular file for stdout and
stderr, read when the call's root has exited); ``after``: how many seconds it waits before it starts the call.
"""

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def with_pipe(command: str) -> dict:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, start_new_session=True)
    return {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def with_file(command: str) -> dict:
    with tempfile.TemporaryFile("w+") as file:
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        returncode = process.wait()
        file.seek(0)
        return {"returncode": returncode, "stdout": file.read(), "stderr": ""}


def with_pty(command: str) -> dict:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 4096):
            seen += data
    except OSError:  # the last one closed its end
        pass
    os.close(ours)
    return {"returncode": process.wait(), "stdout": seen.decode().replace("\r\n", "\n"), "stderr": ""}


KINDS = {"pipe": with_pipe, "file": with_file, "pty": with_pty}


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())

    def one(call: dict) -> dict:
        time.sleep(call.get("after", 0))
        return {**call, **KINDS[call.get("stderr", "pipe")](call["command"])}

    with ThreadPoolExecutor(spec.get("parallel", 1)) as pool:
        results = list(pool.map(one, spec["calls"]))
    cgroup = Path("/proc/self/cgroup").read_text().strip()
    Path(sys.argv[2]).write_text(json.dumps({"pid": os.getpid(), "cgroup": cgroup, "calls": results}))


if __name__ == "__main__":
    main()
