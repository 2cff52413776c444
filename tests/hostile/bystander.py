"""Asks for the status of its own session again and again, and says at the end of its input how that went: one line of JSON.

Usage: bystander.py SESSION
"""

import json
import select
import socket
import sys
import time

PATIENCE_S = 60.0
"""Whoever answers later than this does not answer."""
asked, bad, took, slow = 0, [], [], []
while not select.select([sys.stdin], [], [], 0.2)[0]:
    began = time.monotonic()
    asked += 1
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE_S)
            channel.connect(f"/run/agentcgroup/sessions/{sys.argv[1]}/control.sock")
            channel.sendall(b'{"op": "status"}\n')
            answer = json.loads(channel.makefile("rb").readline())
        if "calls" not in answer:
            bad.append(str(answer)[:200])
    except (OSError, ValueError) as error:
        bad.append(repr(error))
    took.append(time.monotonic() - began)
    if took[-1] > 1:
        slow.append(f"{took[-1]:.1f} s at {began:.0f}")
print(json.dumps({"asked": asked, "bad": bad, "longest_s": max(took), "median_s": sorted(took)[len(took) // 2], "slow": slow}))
