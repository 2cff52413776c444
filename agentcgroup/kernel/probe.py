"""``agentcgroup doctor``: what this machine offers, found out once, by looking or by trying.

Nothing here changes the machine.  Each finding says why something is missing and what to do.
"""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agentcgroup import cgroup, systemd
from agentcgroup.errors import AgentCgroupError
from agentcgroup.kernel import memory, scheduler, selftest
from agentcgroup.kernel.libbpf import version
from agentcgroup.session.options import DAEMON_SOCKET

BTF = Path("/sys/kernel/btf/vmlinux")


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature: is it there, what was seen, what to do if not; ``needed``: run can't work without it."""

    feature: str
    ok: bool
    seen: str
    do: str = ""
    needed: bool = False


def diagnose() -> list[Finding]:
    """Look at everything AgentCgroup can use."""
    monitor = _checked(_bpf)
    return [
        *map(_checked, (_root, _cgroup2, _controllers, _session_place)),
        _checked(_connector, not monitor.ok),
        *map(_checked, (_systemd, _kill, _psi, _favordynmods, _btf)),
        monitor,
        *map(_checked, (_sched_ext, _memcg_struct_ops, _docker)),
    ]


def _checked(check: Callable[..., Finding], *arguments: bool) -> Finding:
    """What a check found; one that fails is a finding, too, and keeps nobody from the others."""
    try:
        return check(*arguments)
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        return Finding(
            name, False, f"it could not be looked at: {error!r}", "run doctor as root; if that does not help, report it"
        )


def print_diagnosis(findings: list[Finding], as_json: bool) -> int:
    """Show findings; returns the exit code: 1 if something ``run`` needs is missing."""
    works = all(finding.ok for finding in findings if finding.needed)
    if as_json:
        print(
            json.dumps(
                {"kernel": os.uname().release, "run_works": works, "findings": [asdict(one) for one in findings]}, indent=1
            )
        )
        return 0 if works else 1
    for one in findings:
        state = "ok" if one.ok else "MISSING" if one.needed else "missing"
        print(f"{state:8} {one.feature:24} {one.seen}")
        if not one.ok and one.do:
            print(f"{'':33} -> {one.do}")
    print("agentcgroup run works here" if works else "agentcgroup run can't work here: see MISSING above")
    return 0 if works else 1


def _root() -> Finding:
    """Whether this user may run sessions: root by itself, others through the daemon."""
    if os.geteuid() == 0:
        return Finding("root, or the daemon", True, "user id 0", needed=True)
    with socket.socket(socket.AF_UNIX) as link:
        if link.connect_ex(DAEMON_SOCKET) == 0:
            return Finding("root, or the daemon", True, f"user id {os.geteuid()}, and the daemon runs", needed=True)
    do = "run it with sudo, or have an administrator say agentcgroup install; what follows is what this user may see"
    return Finding("root, or the daemon", False, f"user id {os.geteuid()}, and no daemon runs", do, needed=True)


def _cgroup2() -> Finding:
    do = "boot with systemd.unified_cgroup_hierarchy=1 (and no cgroup_no_v1=)"
    try:
        return Finding("cgroup v2", True, f"mounted at {cgroup.mount_point()}", needed=True)
    except AgentCgroupError as error:
        return Finding("cgroup v2", False, error.why, do, needed=True)


def _controllers() -> Finding:
    try:
        there = set(cgroup.read(cgroup.mount_point(), "cgroup.controllers").split())
    except AgentCgroupError as error:
        return Finding("controllers", False, error.why, needed=True)
    lacking = [name for name in cgroup.CONTROLLERS if name not in there]
    seen = f"missing on v2: {', '.join(lacking)}" if lacking else f"{', '.join(cgroup.CONTROLLERS)} on v2"
    v1 = [mount for mount in cgroup.mounts() if mount.type == "cgroup"]
    do = (
        "they are bound to cgroup v1: boot with systemd.unified_cgroup_hierarchy=1"
        if v1
        else "remove cgroup_disable= from the kernel's command line"
    )
    return Finding("controllers", not lacking, seen, do, needed=True)


def _session_place() -> Finding:
    """Where sessions would live, and whether that place can be written."""
    try:
        mount = cgroup.mount_point()
    except AgentCgroupError as error:
        return Finding("place for sessions", False, error.why, needed=True)
    place = mount / systemd.SLICE
    if systemd.is_running():
        return Finding("place for sessions", True, f"delegated scopes of systemd in {place}", needed=True)
    writable = os.access(mount, os.W_OK) and os.access(mount / "cgroup.subtree_control", os.W_OK)
    # The root of a cgroup namespace that holds processes can't hand controllers on (the leaf rule).
    real_root = not (mount / "cgroup.type").exists()
    do = "in a container: give it a delegated cgroup of its own (--cgroupns=private, a writable /sys/fs/cgroup, processes in a child)"
    return Finding(
        "place for sessions",
        writable and real_root,
        f"{place}, {'writable' if writable else 'not writable'}, without systemd",
        do,
        needed=True,
    )


def _connector(needed: bool) -> Finding:
    """Other events than those of the BPF monitor: needed where that can't be had."""
    from agentcgroup.sources.connector import Connector

    try:
        Connector().close()
    except AgentCgroupError as error:
        return Finding(
            "process connector", False, error.why, error.do if needed else "none needed: the BPF monitor is better", needed
        )
    return Finding("process connector", True, "events of fork, exec and exit", needed=needed)


def _systemd() -> Finding:
    if not systemd.is_running():
        return Finding("systemd delegation", False, "systemd does not run here", "none needed: sessions are plain cgroups")
    bus = Path("/run/dbus/system_bus_socket").exists()
    return Finding(
        "systemd delegation", bus, "system bus there" if bus else "no system bus", "install and start dbus", needed=True
    )


def _kill() -> Finding:
    try:
        ok = any(cgroup.mount_point().glob("*/cgroup.kill"))
    except AgentCgroupError:
        ok = False
    return Finding(
        "cgroup.kill, freeze", ok, "there" if ok else "no cgroup.kill (needs kernel 5.14)", "use a newer kernel", needed=True
    )


def _psi() -> Finding:
    ok = Path("/proc/pressure/memory").exists()
    try:
        ok = ok and bool(Path("/proc/pressure/memory").read_text())
    except OSError:
        ok = False
    return Finding("PSI", ok, "pressure of memory, cpu, io" if ok else "not there, or disabled at boot", "boot with psi=1")


def _favordynmods() -> Finding:
    options = next((mount.options for mount in cgroup.mounts() if mount.type == "cgroup2"), "")
    ok = "favordynmods" in options.split(",")
    seen = "set: quick moves between cgroups" if ok else "not set: a move waits for an RCU grace period, a few ms"
    return Finding(
        "favordynmods", ok, seen, "optional: mount -o remount,favordynmods on the cgroup2 mount (forks get slightly slower)"
    )


def _btf() -> Finding:
    return Finding(
        "BTF",
        BTF.exists(),
        str(BTF) if BTF.exists() else "the kernel describes no types",
        "a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )


def _bpf() -> Finding:
    """Loads the monitor, attaches it, and takes it away again."""
    from agentcgroup.policy import MonitorRule
    from agentcgroup.sources.monitor import Monitor

    try:
        monitor = Monitor(MonitorRule(hold=0.05))
    except AgentCgroupError as error:
        return Finding("BPF monitor", False, f"{error.what}: {error.why}", error.do or "the process connector does it instead")
    monitor.close()
    without = f", without {', '.join(monitor.without)}" if monitor.without else ""
    return Finding("BPF monitor", True, f"loads and attaches (libbpf {version()}){without}")


def _sched_ext() -> Finding:
    """Has the kernel check the scheduler's programs; they are not put into force."""
    name, do = "sched_ext", "a kernel 7.0 or newer with CONFIG_SCHED_CLASS_EXT=y; cgroup files do its work elsewhere"
    try:
        why = scheduler.lacking()
        running = scheduler.running()
        if not why and not running:
            scheduler.try_load()
    except AgentCgroupError as error:
        why = error.why or error.what
    if why:
        return Finding(name, False, why, do)
    return Finding(name, True, f"in force: {running}" if running else "the scheduler of tool calls loads")


def _memcg_struct_ops() -> Finding:
    """Where the kernel has them: loads them, and sees whether the delay and the protection really act."""
    name, do = "memcg struct_ops", "kernels that carry the patch series; sched_ext or cgroup files do its work elsewhere"
    try:
        if (why := memory.lacking()) and memory.lacking_protection():
            return Finding(name, False, why, do)
        used = "" if scheduler.lacking() else "; they only protect: sched_ext slows, and who it holds keeps no lock of the kernel"
        return Finding(name, True, selftest.memcg() + used)
    except AgentCgroupError as error:
        return Finding(name, False, f"{error.what}: {error.why}", do)


def _docker() -> Finding:
    """By its files: asking the daemon would start it where it starts on demand."""
    if Path("/run/docker.pid").exists():
        return Finding("Docker", True, "the daemon runs")
    if Path("/run/docker.sock").exists():
        return Finding("Docker", True, "starts at its first use")
    return Finding("Docker", False, "no Docker daemon", "only needed for agents in containers: install and start docker")
