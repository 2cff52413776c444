"""What the agent reads on the call's stderr.  Pure.

Written for a model: what happened, the figures, what to try, with the exact words to type.
"""

import json

from agentcgroup.control_events import Notice
from agentcgroup.hints import VARIABLE
from agentcgroup.units import format_duration, format_size

FORMAT_VARIABLE = "AGENTCGROUP_FEEDBACK"
"""In the call's environment: ``json`` makes the feedback one JSON line."""

LONGEST_BYTES = 4096
"""PIPE_BUF: what a pipe takes in one piece or not at all."""


def render(notice: Notice, as_json: bool) -> bytes:
    """The feedback as it is written: a few lines, or one line of JSON."""
    happened = " ".join(filter(None, (_happened(notice), _in_files(notice))))
    advice = _advice(notice)
    if as_json:
        body = {
            "agentcgroup": {
                "event": "left_stopped" if notice.left_by else "stopped" if notice.stopped else "limit",
                "limit": notice.reason,
                "class": notice.class_name,
                "used": notice.used,
                "allowed": notice.limit,
                "unit": {"time": "seconds", "stalled": "seconds", "processes": "processes"}.get(notice.reason, "bytes"),
                "what_happened": happened,
                "what_to_try": advice,
            }
        }
        text = json.dumps(body) + "\n"
    else:
        text = "\n" + "".join(f"agentcgroup: {line}\n" for line in [happened, *advice])
    return text.encode()[:LONGEST_BYTES]


def _happened(notice: Notice) -> str:
    whom = f"what an earlier command left running ({notice.left_by})" if notice.left_by else "this command"
    stopped = f"{whom} was stopped"
    if notice.reason == "memory":
        usual = f" (commands like it use up to {format_size(notice.expected)})" if notice.expected else ""
        return f"{stopped}: it used {format_size(notice.used)} of memory, its limit is {format_size(notice.limit)}{usual}."
    if notice.reason == "budget":
        return (f"{stopped}: together with other commands of this session it filled the {format_size(notice.limit)} of memory "
                f"that they share; it held the most, {format_size(notice.used)}.")  # fmt: skip
    if notice.reason == "room":
        return (f"{stopped}: the {format_size(notice.limit)} of memory that all agents on this host share were taken, and waiting "
                f"did not help; it held {format_size(notice.used)}.")  # fmt: skip
    if notice.reason == "stalled":
        return (f"{stopped}: it got nowhere for lack of memory: of the last {format_duration(notice.limit)} it waited for memory "
                f"{format_duration(notice.used)}.")  # fmt: skip
    if notice.reason == "kernel":
        return f"the kernel killed {whom} for memory: it reached {format_size(notice.used)}, its limit is {format_size(notice.limit)}."
    if notice.reason == "session":
        return (f"the kernel killed {whom} for memory: it held {format_size(notice.used)}, less than its limit, but what it shares "
                f"was full (this session has {format_size(notice.limit)} with its agent, and all sessions share the host).")  # fmt: skip
    if notice.reason == "time":
        ran = f"it ran for {format_duration(notice.used)}, its limit is {format_duration(notice.limit)}"
        return f"{stopped}: {ran}." if notice.stopped else f"this command takes long: {ran}."
    ran = f"its limit is {notice.limit:.0f} processes at a time"
    return f"{stopped}: {ran}." if notice.stopped else f"this command could not start more processes: {ran}."


def _in_files(notice: Notice) -> str:
    """What of the memory is files, which no process gives back when it ends."""
    if (files := notice.files) is None:
        return ""
    whose = "of what it used" if files.own else "of this session's memory, left by earlier commands,"
    named = f": {files.named}" if files.named else ""
    return f"{format_size(files.held)} {whose} is files in memory (tmpfs, such as /dev/shm){named}."


def _advice(notice: Notice) -> list[str]:
    if notice.left_by:
        return [
            "if this command waits for it, it fails now: run it again, and what it needs starts anew, within this command's limits."
        ]
    if notice.reason == "time":
        return [
            f"try a part of the work, or declare the time it needs: {VARIABLE}=timeout:{_minutes(2 * notice.limit)} <command>"
        ]
    if notice.reason == "processes":
        return ["try fewer parallel jobs (for example -j 2)."]
    advice = ["the agent and its other commands are not affected."] if notice.stopped else []
    if notice.files:
        return [
            *advice,
            "such files stay in memory until they are removed: remove what is not needed, and keep the rest on a disk.",
        ]
    narrower = "try a narrower scope: fewer tests, files or parallel jobs at a time"
    if notice.reason in ("budget", "session", "room"):
        return [*advice, narrower + ", or run it again when less else runs."]
    if notice.reason == "stalled":
        return [*advice, narrower + "."]
    if notice.most:
        need = f"{VARIABLE}=memory:high <command>"
        return [*advice, narrower + ", or declare the need:", f"  {need}    (allows up to {format_size(notice.most)})"]
    return [*advice, narrower + f"; this session has no more than {format_size(notice.limit)} for one command."]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 120 else f"{seconds / 60:.0f}m"
