"""A runtime that starts itself again as a child with other settings, then runs the agent in the child."""

import os
import runpy
import subprocess
import sys

if os.environ.get("REEXEC_DONE"):
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    command = [sys.executable, "-X", "utf8", *sys.argv]
    sys.exit(subprocess.run(command, env={**os.environ, "REEXEC_DONE": "1"}).returncode)
