"""A model that says what a test wants: an HTTP server on loopback which real agents take for their model's.

It speaks two dialects, Anthropic's Messages and OpenAI's Responses, as far as the agents need them.  Each answer asks for the shell commands of
the next turn; when there are no more turns, it says that it is done.  What the agent read of a command comes with its next request.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHELL_TOOLS = ("Bash", "bash", "exec_command", "shell")
"""What agents call the tool that runs a command."""

DONE = "all done"


@dataclass
class Model:
    """The script: turns of commands that are asked for at once.  ``results`` is what the agent read, by number of the command."""

    turns: Sequence[Sequence[str]]
    asked: int = 0
    requests: int = 0
    results: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commands(self) -> list[str]:
        return [command for turn in self.turns for command in turn]

    def next_turn(self) -> list[tuple[int, str]]:
        """The commands of the next turn with their numbers; none when the script is over."""
        with self.lock:
            if self.asked == len(self.turns):
                return []
            before = sum(len(turn) for turn in self.turns[: self.asked])
            self.asked += 1
            return list(enumerate(self.turns[self.asked - 1], before))

    def was_told(self, call: str, text: str) -> None:
        """The agent sent what a command printed; the first time counts, as agents shorten old ones."""
        number = int(call.rpartition("_")[2])
        with self.lock:
            self.results.setdefault(number, text)


def serve(model: Model) -> ThreadingHTTPServer:
    """Answer on a free port of loopback, in the background, until ``shutdown``."""

    class Handler(_Handler):
        script = model

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    script: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._send(b"", "application/json")

    def do_GET(self) -> None:
        self._send(json.dumps({"object": "list", "data": [], "models": []}).encode(), "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            request = json.loads(body)
        except ValueError:
            request = {}
        self.script.requests += 1
        path = self.path.split("?")[0]
        if path.endswith("/messages"):
            events = _messages(self.script, request)
        elif path.endswith("/responses"):
            events = _responses(self.script, request)
        else:  # counting tokens, telemetry
            self._send(b'{"input_tokens": 1}', "application/json")
            return
        if request.get("stream"):
            text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self._send(text.encode(), "text/event-stream")
        else:
            whole = events[0].get("whole") or events[-1]["response"]
            self._send(json.dumps(whole).encode(), "application/json")

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _tool(request: dict[str, Any]) -> dict[str, Any] | None:
    """The shell tool that a request offers; requests for a title or a summary offer none."""
    offered = {tool.get("name"): tool for tool in request.get("tools") or []}
    return next((offered[name] for name in SHELL_TOOLS if name in offered), None)


def _arguments(schema: dict[str, Any], command: str) -> dict[str, Any]:
    """What the shell tool is called with: the command, and something for whatever else it demands."""
    known = schema.get("properties", {})
    arguments: dict[str, Any] = {"cmd" if "cmd" in known else "command": command}
    if "yield_time_ms" in known:  # how long the agent waits for a command before it asks the model again
        arguments["yield_time_ms"] = 120_000
    if "timeout" in known:  # opencode waits as long for a shell that somebody else killed
        arguments["timeout"] = 45_000
    for name in schema.get("required", []):
        arguments.setdefault(name, "a step of the script")
    return arguments


def _text(content: Any) -> str:
    """The text in what an agent sends back: a string, or a list of parts."""
    if isinstance(content, list):
        return "\n".join(_text(part) for part in content)
    if isinstance(content, dict):
        return _text(content.get("text") or content.get("content") or "")
    return str(content or "")


def _messages(model: Model, request: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer as Anthropic's Messages API streams it."""
    for message in request.get("messages") or []:
        parts = message.get("content")
        for part in parts if isinstance(parts, list) else []:
            if part.get("type") == "tool_result":
                model.was_told(part["tool_use_id"], _text(part.get("content")))
    tool = _tool(request)
    calls = model.next_turn() if tool else []
    blocks: list[dict[str, Any]] = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": tool["name"], "input": _arguments(tool["input_schema"], command)}
        for number, command in calls
        if tool
    ]
    why = "tool_use" if blocks else "end_turn"
    blocks = blocks or [{"type": "text", "text": DONE}]
    usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    head = {"id": f"msg_{model.requests}", "type": "message", "role": "assistant", "model": request.get("model", "")}
    head |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    return [
        {"type": "message_start", "message": head, "whole": head | {"content": blocks, "stop_reason": why}},
        *(event for index, block in enumerate(blocks) for event in _block(index, block)),
        {"type": "message_delta", "delta": {"stop_reason": why, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


def _block(index: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        empty, delta = block | {"text": ""}, {"type": "text_delta", "text": block["text"]}
    else:
        empty, delta = block | {"input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _responses(model: Model, request: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer as OpenAI's Responses API streams it."""
    given = request.get("input")
    for item in given if isinstance(given, list) else []:
        if item.get("type") == "function_call_output":
            model.was_told(item["call_id"], _text(item.get("output")))
    tool = _tool(request)
    calls = model.next_turn() if tool else []
    items: list[dict[str, Any]] = [
        {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": tool["name"],
            "arguments": json.dumps(_arguments(tool["parameters"], command)),
            "status": "completed",
        }
        for number, command in calls
        if tool
    ]
    said = {"type": "output_text", "text": DONE, "annotations": []}
    items = items or [{"type": "message", "id": "msg_0", "role": "assistant", "status": "completed", "content": [said]}]
    usage = {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 1, "total_tokens": 2}
    usage["output_tokens_details"] = {"reasoning_tokens": 0}
    response: dict[str, Any] = {"id": f"resp_{model.requests}", "object": "response", "status": "completed", "model": ""}
    response |= {"output": items, "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response | {"status": "in_progress", "output": []}},
        *(
            {"type": f"response.output_item.{state}", "output_index": index, "item": item}
            for index, item in enumerate(items)
            for state in ("added", "done")
        ),
        {"type": "response.completed", "response": response},
    ]
    for number, event in enumerate(events):
        event["sequence_number"] = number
    return events
