"""A session's control socket: one line of JSON asks, one line answers.

``{"op": "call"}`` makes the caller the root of a tool call: ``{"leaf": "tool-7"}``, or ``{"error": ...}``.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from agentcgroup.errors import AgentCgroupError

CONTROL_SOCKET = "control.sock"
_LONGEST_REQUEST = 4096
_REQUEST_WAIT_S = 2


async def listen(folder: Path, declare: Callable[[int], str]) -> asyncio.Server:
    """Serve the socket in the session's folder.

    ``declare`` gets the caller's process id and returns the name of its leaf; ValueError says why it does not.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await asyncio.wait_for(reader.readline(), _REQUEST_WAIT_S))
            if not isinstance(request, dict) or request.get("op") != "call":
                raise ValueError('the request is not understood: {"op": "call"} is')
            answer = {"leaf": declare(_peer(writer))}
        except (ValueError, TimeoutError, OSError, AgentCgroupError) as error:
            answer = {"error": str(error) or type(error).__name__}
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    place = folder / CONTROL_SOCKET
    server = await asyncio.start_unix_server(serve, place, limit=_LONGEST_REQUEST)
    # Agents may run as other users; who asks is checked by process, not by file mode.
    place.chmod(0o666)
    return server


def _peer(writer: asyncio.StreamWriter) -> int:
    """The process at the other end of a Unix socket, as the kernel knows it."""
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("iII", credentials)[0])
