"""An agent whose commands are made to hurt whoever looks at them: what they are called, say, and write to; and there are many.

Usage: agent.py FOLDER SLEEPERS.  Makes FOLDER/ready when only the sleepers are left; ends when FOLDER/go is there.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

folder, sleepers = Path(sys.argv[1]), int(sys.argv[2])


def start(*words: str | bytes | Path, **variables: str) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=null, stdout=null, stderr=null, env=variables or None)


stuck = Path(__file__).with_name("stuck.py")
hungry = [start(sys.executable, stuck, kind) for kind in ("terminal", "eventfd")]

for text in (
    "a;" * 10_000,
    "snapshot-" * 7000,
    "((" * 10_000,
    "env " * 5000,
    "nice " * 5000,
    "A=1 " * 5000,
    "sh -c 'a;a;a;a';" * 1100,
):
    start("sh", "-c", f": {text}").wait()
    start("bash", "-c", f"exit 3; {text}").wait()

for name in (b"\x1b]0;x\x07\x1b[31mred\nsession fake: 1 tool call", b"\xff\xfe", b"=HYPERLINK(1)"):
    program = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    program.symlink_to("/bin/true")
    start(program, "\x1b[2J", b"\xff").wait()
start("true", *("y" * 1000 for _ in range(1500))).wait()

start("sh", "-c", "".join(f"AGENT_RESOURCE_HINT=memory:{10 + n % 50}M true;" for n in range(100))).wait()
start("/bin/true", **{f"V{n}": "x" * 100_000 for n in range(15)}, AGENT_RESOURCE_HINT="memory:x" * 100).wait()

for one in hungry:
    one.wait()
waiting = [start("sleep", "1000") for _ in range(sleepers)]
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.2)
for one in waiting:
    one.kill()
