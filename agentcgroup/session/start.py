"""From the options of ``run`` to a running session: everything that can be refused is refused here."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath

from agentcgroup import cgroup, enforce
from agentcgroup.classify import SMALLEST_BUDGET_BYTES, Budget, amount, split_budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.host import enforcement
from agentcgroup.model import Priority
from agentcgroup.policy import Policy, load_policy
from agentcgroup.session import places
from agentcgroup.sources.choice import Choice
from agentcgroup.text import clean
from agentcgroup.units import format_size, parse_size


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``run`` as they were typed."""

    argv: tuple[str, ...]
    name: str | None = None
    priority: Priority | None = None
    memory: str | None = None
    cpu_weight: int | None = None
    policy: Path | None = None
    events: Choice = "auto"
    enforcer: enforce.Choice = "auto"
    report: Path | None = None
    docker: str | None = None


def start(options: Options) -> int:
    """Run a session; returns its exit code.  Raises AgentCgroupError before anything is created."""
    from agentcgroup.session.engine import Plan
    from agentcgroup.session.front import end_like, run_session

    if options.docker is not None:
        return _run_in_container(options, options.docker)
    if not options.argv:
        raise AgentCgroupError("no command", do="agentcgroup run [options] -- CMD...")
    policy = load_policy(options.policy)
    if (link := _daemon(options)) is not None:
        return _run_with_daemon(options, link)
    priority = options.priority or policy.session.priority
    budget = session_budget(policy, options.memory)
    if options.name is not None:
        places.check_name(options.name)
    report = _report_path(options.report)
    if code := _refuses_to_run(options.argv[0]):
        return code
    check_machine()
    enforcement.check(options.enforcer)
    for stale in places.clean():
        _say_cleaned(stale)
    name = options.name or _free_name(options.argv)
    folder, lock = places.claim(name)
    plan = Plan(name, folder, policy, budget, options.cpu_weight or policy.session.cpu_weight[priority], priority,
                options.argv, options.events, options.enforcer, report, stub=0, keeper=0, front=0)  # fmt: skip
    return end_like(run_session(plan, lock))


def _run_in_container(options: Options, image: str) -> int:
    """Become ``docker run`` with the labels that make the daemon govern the container.  Raises AgentCgroupError where it can't be had."""
    link = _daemon(options)
    if link is None:
        raise AgentCgroupError(
            "run --docker needs the daemon",
            "it governs containers; --policy, --cpu-weight, --events and --enforcer are its own business",
            "agentcgroup install, and leave those options out",
        )
    link.close()
    if options.name is not None:
        places.check_name(options.name)
    words = container_words(options, image, sys.stdin.isatty() and sys.stdout.isatty())
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise AgentCgroupError("docker can't be executed", os.strerror(error.errno or 0), "install Docker's client") from None


def container_words(options: Options, image: str, terminal: bool) -> list[str]:
    """The ``docker run`` that ``run --docker`` becomes.  Pure."""
    labels = {"enable": "true", "name": options.name, "priority": options.priority, "memory": options.memory}
    said = [word for key, value in labels.items() if value for word in ("--label", f"agentcgroup.{key}={value}")]
    return ["docker", "run", "--rm", "--interactive", *(["--tty"] if terminal else []), *said, image, *options.argv]


def _daemon(options: Options) -> socket.socket | None:
    """A connection to the daemon, where there is one, and nothing was asked for that is its own business."""
    if options.policy or options.cpu_weight or options.events != "auto" or options.enforcer != "auto":
        return None
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(str(places.DAEMON_SOCKET))
    except OSError:
        link.close()
        return None
    return link


def _run_with_daemon(options: Options, link: socket.socket) -> int:
    """Let the daemon govern the session; returns its exit code."""
    from agentcgroup.session.front import end_like, run_with_daemon
    from agentcgroup.session.report import print_summary, write_down

    name = options.name or _free_name(options.argv)
    places.check_name(name)
    report_file = _report_path(options.report)
    try:
        memory = None if options.memory is None else _memory(options.memory, host_memory())
    except ValueError as error:
        raise AgentCgroupError("--memory refused", str(error), "write 2G, 512M or 50%") from None
    if code := _refuses_to_run(options.argv[0]):
        return code
    order = {"version": 1, "op": "run", "name": name, "priority": options.priority, "memory": memory}
    with link:
        status, report = run_with_daemon(link, options.argv, order)
    if report is None:
        print(
            f"agentcgroup: the daemon ended while session {name} ran; agentcgroup history --session {name} has what is known",
            file=sys.stderr,
        )
        return end_like(status)
    if report_file is not None:
        write_down(report, report_file)
    print_summary(report, sys.stderr)
    return end_like(status)


def session_budget(policy: Policy, memory: str | None) -> Budget:
    """The session's budget from ``--memory`` or the policy.  Warns where it exceeds the host's memory."""
    host = host_memory()
    try:
        wanted = amount(policy.session.memory, host) if memory is None else _memory(memory, host)
    except ValueError as error:
        raise AgentCgroupError("--memory refused", str(error), "write 2G, 512M or 50%") from None
    if wanted < SMALLEST_BUDGET_BYTES:
        smallest = format_size(SMALLEST_BUDGET_BYTES)
        raise AgentCgroupError(
            f"a budget of {format_size(wanted)} is too small", f"an idle agent and a shell need {smallest}", "give more --memory"
        )
    if wanted > host:
        print(
            f"agentcgroup: warning: the budget of {format_size(wanted)} is more than this host's memory, {format_size(host)}",
            file=sys.stderr,
        )
    return split_budget(policy, wanted)


def host_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory(text: str, host: int) -> int:
    if text.endswith("%") and text[:-1].isdigit() and 0 < int(text[:-1]) <= 100:
        return int(text[:-1]) * host // 100
    return parse_size(text)


def _refuses_to_run(program: str) -> int:
    """126 or 127 as a shell answers for a command that can't be run, with a message; 0 if it can."""
    if shutil.which(program):
        return 0
    exists = any(Path(folder, program).exists() for folder in ([""] if "/" in program else os.get_exec_path()))
    if exists:
        print(f"agentcgroup: {clean(program)}: found, but not executable", file=sys.stderr)
        return 126
    print(f"agentcgroup: {clean(program)}: command not found", file=sys.stderr)
    return 127


def check_machine() -> None:
    """Raises AgentCgroupError where no session can be had: no root, no cgroup v2, or inside a session."""
    if os.geteuid():
        raise AgentCgroupError(
            "run needs root, or the daemon",
            "it makes cgroups and reads the kernel's process events",
            "run it with sudo, or have an administrator say agentcgroup install",
        )
    missing = set(cgroup.CONTROLLERS) - set(cgroup.read(cgroup.mount_point(), "cgroup.controllers").split())
    if missing:
        raise AgentCgroupError(
            "run can't work here",
            f"cgroup v2 lacks the controllers {', '.join(sorted(missing))} (bound to v1, or disabled at boot)",
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=; agentcgroup doctor says more",
        )
    inside = places.name_of(cgroup.of_process())
    if inside:
        raise AgentCgroupError(
            "run inside a session",
            f"this process belongs to session {inside!r}",
            "its commands are governed already; use agentcgroup exec",
        )


def _report_path(path: Path | None) -> Path | None:
    if path is None:
        return None
    path = path.absolute()
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise AgentCgroupError(
            f"--report {path} can't be written",
            "its folder is missing or not writable, or it is a folder",
            "give a file in an existing folder",
        )
    return path


def _free_name(argv: tuple[str, ...]) -> str:
    """A name made from the command's and this process's id, so that runs side by side differ."""
    base = (
        "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in PurePath(argv[0]).name).strip("-")
        or "session"
    )
    return f"{base[:24]}-{os.getpid()}"


def clean_up(end: bool) -> int:
    """``agentcgroup cleanup``: clean stale sessions and say what was found; exit code 0."""
    check_machine()
    found = places.clean(end)
    for one in found:
        _say_cleaned(one)
    if not found:
        print("agentcgroup: nothing to clean up", file=sys.stderr)
    return 0


def _say_cleaned(one: places.Cleaned) -> None:
    if one.running:
        pids = ", ".join(map(str, one.running))
        print(f"agentcgroup: session {one.name}: its run has died, its agent still runs (processes {pids}), without control;"
              " end it with agentcgroup cleanup --end", file=sys.stderr)  # fmt: skip
    else:
        print(f"agentcgroup: cleaned up after session {one.name} ({one.removed} cgroups)", file=sys.stderr)
