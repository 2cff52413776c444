"""An agent of a kind that no rule lists: its terminal program starts a daemon, which runs the commands, and talks with it by a socket.

Usage: engine.py RESULTS.json COMMAND...   The daemon is a script of its own, so that it is not the same program once more.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

SERVER = """
import json, os, socket, subprocess, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
link, _ = server.accept()
lines = link.makefile("rw")
for line in lines:
    done = subprocess.run(["bash", "-c", json.loads(line)], capture_output=True, text=True, errors="replace", start_new_session=True)
    lines.write(json.dumps({"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}) + chr(10))
    lines.flush()
"""


def main() -> None:
    results, commands = Path(sys.argv[1]), sys.argv[2:]
    place, script = results.with_suffix(".sock"), results.with_suffix(".server.py")
    script.write_text(SERVER)
    subprocess.run(
        [sys.executable, script, place],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    link = socket.socket(socket.AF_UNIX)
    while True:
        try:
            link.connect(str(place))
            break
        except OSError:
            time.sleep(0.05)
    lines = link.makefile("rw")
    found = []
    for command in commands:
        lines.write(json.dumps(command) + "\n")
        lines.flush()
        found.append(json.loads(lines.readline()))
    results.write_text(json.dumps(found))
    os._exit(0)


main()
