"""A session's control socket: one line of JSON asks, one line answers.

For root and the session's owner: ``{"op": "status"}`` answers what the session and its calls are doing (``snapshot``);
``{"op": "freeze", "call": 7}`` stops a call until ``thaw`` lets it go on, and ``{"op": "priority", "priority": "low"}`` changes the
session's priority: ``{"done": ...}``.
``{"op": "call"}`` makes the caller the root of a tool call: ``{"leaf": "tool-7"}``, or ``{"error": ...}``.  Its command is
what it executes next, or, for a caller that executes nothing, ``"argv": [...]``, which may come with a ``"hint"``.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentcgroup.errors import AgentCgroupError
from agentcgroup.model import Priority
from agentcgroup.session.callers import CALLERS, READ_WITHIN_S

CONTROL_SOCKET = "control.sock"
_LONGEST_REQUEST = 4096
_FRESH_S, _FRESH_TIMES = 0.2, 10
"""A status is made anew when it is older than this, or so many times what it took to make it: many askers get one answer."""


class Request(BaseModel):
    """What a caller may ask."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    op: Literal["call", "status", "freeze", "thaw", "priority"]
    call: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    priority: Priority | None = None
    argv: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=4096)] = []
    hint: Annotated[str, Field(max_length=128)] = ""


async def listen(
    folder: Path,
    declare: Callable[[int, tuple[str, ...], str], str],
    status: Callable[[], dict[str, Any]],
    steer: Callable[[Request, int], None],
    owner: int,
    log: Callable[[str], None],
) -> asyncio.Server:
    """Serve the socket in the session's folder.

    ``declare`` gets the caller's process id, command and hint, and returns the name of its leaf; ``steer`` gets what else is asked,
    and the user who asks.  ValueError says why they do not.
    """

    made: tuple[float, bytes] = (0.0, b"")

    def status_line() -> bytes:
        nonlocal made
        began = time.monotonic()
        if began >= made[0]:
            line = _line(status())
            took_s = time.monotonic() - began
            made = (time.monotonic() + max(_FRESH_S, _FRESH_TIMES * took_s), line)
        return made[1]

    def answer_to(request: Request, pid: int, uid: int) -> bytes:
        nonlocal made
        if request.op == "status":
            _check_owner(uid, owner)
            return status_line()
        made = (0.0, b"")
        if request.op == "call":
            return _line({"leaf": declare(pid, tuple(request.argv), request.hint)})
        _check_owner(uid, owner)
        steer(request, uid)
        return _line({"done": request.op})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid, uid = peer(writer)
        with contextlib.closing(writer):
            try:
                with CALLERS.connection(uid):
                    line = await asyncio.wait_for(reader.readline(), READ_WITHIN_S)
                    await CALLERS.turn(uid)
                    with CALLERS.working(uid):
                        answer = _answer(line, pid, uid)
                    await CALLERS.answer(writer, uid, answer)
            except (ValueError, TimeoutError) as error:  # too much of it, a line without end, or nobody who speaks
                if not writer.is_closing():
                    writer.write(_line({"error": str(error) or type(error).__name__}))
            except ConnectionError:
                writer.transport.abort()

    def _answer(line: bytes, pid: int, uid: int) -> bytes:
        try:
            return answer_to(Request.model_validate_json(line), pid, uid)
        except ValidationError as error:
            return _line({"error": f'the request is not understood ({error.errors()[0]["msg"]}): {{"op": "call"}} is'})
        except (ValueError, OSError, AgentCgroupError) as error:
            return _line({"error": str(error) or type(error).__name__})
        except Exception as error:
            log(f"a request at the session's socket failed: {error!r}")
            return _line({"error": "the governor failed at this; the session's log says more"})

    place = folder / CONTROL_SOCKET
    server = await asyncio.start_unix_server(serve, place, limit=_LONGEST_REQUEST)
    # Agents may run as other users; who asks is checked by process, not by file mode.
    place.chmod(0o666)
    return server


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _check_owner(uid: int, owner: int) -> None:
    """Raises ValueError where this user may not ask."""
    if uid not in (0, owner):
        raise ValueError(f"user {uid} may not ask: this session is another's")


def peer(writer: asyncio.StreamWriter) -> tuple[int, int]:
    """The process at the other end of a Unix socket and its user, as the kernel knows them."""
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("iII", credentials)
    return pid, uid
