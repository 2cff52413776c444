"""A session's control socket: one line of JSON asks, one line answers.

For root and the session's owner: ``{"op": "status"}`` answers what the session and its calls are doing (``snapshot``);
``{"op": "freeze", "call": 7}`` stops a call until ``thaw`` lets it go on, and ``{"op": "priority", "priority": "low"}`` changes the
session's priority: ``{"done": ...}``.
``{"op": "call"}`` makes the caller the root of a tool call: ``{"leaf": "tool-7"}``, or ``{"error": ...}``.  Its command is
what it executes next, or, for a caller that executes nothing, ``"argv": [...]``, which may come with a ``"hint"``.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import Priority

CONTROL_SOCKET = "control.sock"
_LONGEST_REQUEST = 4096
_REQUEST_WAIT_S = 2


class Request(BaseModel):
    """What a caller may ask."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    op: Literal["call", "status", "freeze", "thaw", "priority"]
    call: Annotated[int, Field(ge=1)] | None = None
    priority: Priority | None = None
    argv: list[Annotated[str, Field(max_length=4096)]] = []
    hint: Annotated[str, Field(max_length=128)] = ""


async def listen(
    folder: Path,
    declare: Callable[[int, tuple[str, ...], str], str],
    status: Callable[[], dict[str, Any]],
    steer: Callable[[Request, int], None],
    owner: int,
) -> asyncio.Server:
    """Serve the socket in the session's folder.

    ``declare`` gets the caller's process id, command and hint, and returns the name of its leaf; ``steer`` gets what else is asked,
    and the user who asks.  ValueError says why they do not.
    """

    def answer_to(request: Request, writer: asyncio.StreamWriter) -> dict[str, Any]:
        pid, uid = peer(writer)
        if request.op == "call":
            return {"leaf": declare(pid, tuple(request.argv), request.hint)}
        if uid not in (0, owner):
            raise ValueError(f"user {uid} may not ask: this session is another's")
        if request.op == "status":
            return status()
        steer(request, uid)
        return {"done": request.op}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = Request.model_validate_json(await asyncio.wait_for(reader.readline(), _REQUEST_WAIT_S))
            answer = answer_to(request, writer)
        except ValidationError as error:
            answer = {"error": f'the request is not understood ({error.errors()[0]["msg"]}): {{"op": "call"}} is'}
        except (ValueError, TimeoutError, OSError, AgentCgroupError) as error:
            answer = {"error": str(error) or type(error).__name__}
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    place = folder / CONTROL_SOCKET
    server = await asyncio.start_unix_server(serve, place, limit=_LONGEST_REQUEST)
    # Agents may run as other users; who asks is checked by process, not by file mode.
    place.chmod(0o666)
    return server


def peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """The process at the other end of a Unix socket and its user, as the kernel knows them."""
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("iII", credentials)
    return pid, uid
