"""systemd over D-Bus: a delegated scope for each session, so that systemd leaves what is below to us.

Only the system manager is spoken to.  Where systemd does not run, sessions are plain cgroups.
"""

import errno
import os
from pathlib import Path
from typing import Any

from agentcgroup.errors import AgentCgroupError

SLICE = "agentcgroup.slice"
_BUS_WAIT_S = 30.0
_MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager")


def is_running() -> bool:
    """Whether this machine was booted with systemd (what sd_booted(3) looks at)."""
    return Path("/run/systemd/system").is_dir()


def scope_name(session: str) -> str:
    """The unit of a session.  (``session-<n>.scope`` would collide with logind's.)"""
    return f"agentcgroup-{session}.scope"


def start_scope(session: str, pids: list[int], memory_max: int, memory_low: int, cpu_weight: int) -> None:
    """Start the session's scope around ``pids`` and wait until the processes are in it.

    The scope's own limits belong to systemd, so they are given as unit properties; everything below
    is delegated.  Raises AgentCgroupError when systemd refuses.
    """
    properties = [
        ("Description", ("s", f"AgentCgroup session {session}")),
        ("Slice", ("s", SLICE)),
        ("PIDs", ("au", pids)),
        ("Delegate", ("b", True)),
        # An out-of-memory kill inside is a tool call's end, not the session's.
        ("OOMPolicy", ("s", "continue")),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TasksMax", ("t", 2**64 - 1)),
        ("MemoryMax", ("t", memory_max)),
        ("MemoryLow", ("t", memory_low)),
        ("CPUWeight", ("t", cpu_weight)),
        ("TimeoutStopUSec", ("t", 5_000_000)),
    ]
    _job(f"starting {scope_name(session)}", "StartTransientUnit", "ssa(sv)a(sa(sv))",
         (scope_name(session), "fail", properties, []))  # fmt: skip


def change_scope(session: str, memory_low: int, cpu_weight: int) -> None:
    """Another protection and weight for a session's scope that runs.  Raises AgentCgroupError when systemd refuses."""
    properties = [("MemoryLow", ("t", memory_low)), ("CPUWeight", ("t", cpu_weight))]
    _call(f"changing {scope_name(session)}", "SetUnitProperties", "sba(sv)", (scope_name(session), True, properties))


def protect_slice(memory_low: int) -> None:
    """What the slice of all sessions protects from reclaim, in bytes, until the next boot.  Raises AgentCgroupError when systemd refuses."""
    _call(f"protecting {SLICE}", "SetUnitProperties", "sba(sv)", (SLICE, True, [("MemoryLow", ("t", memory_low))]))


def limit_slice(memory_max: int | None) -> None:
    """Give the slice of all sessions a limit of memory, in bytes, until the next boot; None takes it back."""
    value = 2**64 - 1 if memory_max is None else memory_max
    properties = [("MemoryMax", ("t", value)), ("MemorySwapMax", ("t", 2**64 - 1 if memory_max is None else 0))]
    _call(f"limiting {SLICE}", "SetUnitProperties", "sba(sv)", (SLICE, True, properties))


def stop_scope(session: str) -> None:
    """Stop the session's scope; everything in it is ended.  Not being there is fine."""
    try:
        _job(f"stopping {scope_name(session)}", "StopUnit", "ss", (scope_name(session), "replace"))
    except AgentCgroupError as error:
        if "NoSuchUnit" not in error.why:
            raise


def _call(what: str, method: str, signature: str, body: tuple[Any, ...]) -> None:
    """Call a method of the manager that is done when it answers."""
    from jeepney import DBusAddress, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection

    try:
        with open_dbus_connection(bus="SYSTEM") as bus:
            manager = DBusAddress(*_MANAGER)
            reply = bus.send_and_get_reply(new_method_call(manager, method, signature, body), timeout=_BUS_WAIT_S)
    except (OSError, TimeoutError) as error:
        raise AgentCgroupError(f"{what} failed", f"no answer from systemd over D-Bus ({error})", _DO) from None
    if reply.header.message_type is MessageType.error:
        raise _refused(what, reply)


def _job(what: str, method: str, signature: str, body: tuple[Any, ...]) -> None:
    """Call a method of the manager that queues a job, and wait for the job's result."""
    from jeepney import DBusAddress, MatchRule, MessageType, new_method_call
    from jeepney.bus_messages import message_bus
    from jeepney.io.blocking import open_dbus_connection

    manager = DBusAddress(*_MANAGER)
    removed = MatchRule(type="signal", interface=manager.interface, member="JobRemoved", path=manager.object_path)
    try:
        with open_dbus_connection(bus="SYSTEM") as bus, bus.filter(removed, bufsize=100) as signals:
            bus.send_and_get_reply(message_bus.AddMatch(removed), timeout=_BUS_WAIT_S)
            bus.send_and_get_reply(new_method_call(manager, "Subscribe"), timeout=_BUS_WAIT_S)
            reply = bus.send_and_get_reply(new_method_call(manager, method, signature, body), timeout=_BUS_WAIT_S)
            if reply.header.message_type is MessageType.error:
                raise _refused(what, reply)
            while True:
                _, job, _, result = bus.recv_until_filtered(signals, timeout=_BUS_WAIT_S).body
                if job == reply.body[0]:
                    break
    except (OSError, TimeoutError) as error:
        raise AgentCgroupError(f"{what} failed", f"no answer from systemd over D-Bus ({error})", _DO) from None
    if result != "done":
        raise AgentCgroupError(f"{what} failed", f"systemd's job ended with {result!r}", _REFUSED)


_DO = "systemd must be reachable through the system bus (is dbus running?); agentcgroup doctor says more"

_REFUSED = "journalctl -b says more"


def _refused(what: str, reply: Any) -> AgentCgroupError:
    """systemd answered, and with an error: what that says."""
    from jeepney import HeaderFields

    name = reply.header.fields.get(HeaderFields.error_name, "unknown error")
    why = f"{name}: {reply.body[0]}" if reply.body else str(name)
    full = os.strerror(errno.ENOSPC) in why or "ENOSPC" in why
    return AgentCgroupError(f"{what} failed", why, "make room in /run, where systemd writes down its units" if full else _REFUSED)
