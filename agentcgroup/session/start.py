"""From the options of ``run`` to a running session: everything that can be refused is refused before anything is made.

An agent waits for this, so what only ``run`` without the daemon needs is imported only then (``embedded``).
"""

# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH118, PTH119, PTH120
# pathlib takes a quarter of the time that is left.

import os
import socket
import sys

from agentcgroup import stdio
from agentcgroup.errors import AgentCgroupError
from agentcgroup.session.options import DAEMON_SOCKET, Options
from agentcgroup.text import clean


def start(options: Options) -> int:
    """Run a session; returns its exit code.  Raises AgentCgroupError before anything is created."""
    if options.docker is not None:
        return _run_in_container(options, options.docker)
    if not options.argv:
        raise AgentCgroupError("no command", do="agentcgroup run [options] -- CMD...")
    if (link := _daemon(options)) is not None:
        return _run_with_daemon(options, link)
    from agentcgroup.session import embedded

    return embedded.run(options)


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
        from agentcgroup.session.places import check_name

        check_name(options.name)
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
        link.connect(DAEMON_SOCKET)
    except OSError:
        link.close()
        return None
    return link


def _run_with_daemon(options: Options, link: socket.socket) -> int:
    """Let the daemon govern the session; returns its exit code."""
    from agentcgroup.session.front import end_like, run_with_daemon, show_summary

    name = options.name or free_name(options.argv)
    report_file = report_path(options.report)
    memory = None if options.memory is None else memory_of(options.memory, host_memory())
    if code := refuses_to_run(options.argv[0]):
        return code
    order = {"version": 1, "op": "run", "name": name, "priority": options.priority, "memory": memory}
    with link:
        status, report = run_with_daemon(link, options.argv, order)
    if report is None:
        stdio.say(
            f"agentcgroup: the daemon ended while session {name} ran; agentcgroup history --session {name} has what is known"
        )
        return end_like(status)
    if report_file is not None:
        from pathlib import Path

        from agentcgroup.session.report import write_down

        write_down(report, Path(report_file))
    show_summary(report)
    return end_like(status)


def host_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_of(text: str, host: int) -> int:
    """The bytes that ``--memory`` says, of a host with so many.  Raises AgentCgroupError."""
    from agentcgroup.units import parse_size

    if text.endswith("%") and text[:-1].isascii() and text[:-1].isdigit() and 0 < int(text[:-1]) <= 100:
        return int(text[:-1]) * host // 100
    try:
        return parse_size(text)
    except ValueError as error:
        raise AgentCgroupError("--memory refused", str(error), "write 2G, 512M or 50%") from None


def refuses_to_run(program: str) -> int:
    """126 or 127 as a shell answers for a command that can't be run, with a message; 0 if it can."""
    files = [program] if "/" in program else [os.path.join(folder, program) for folder in os.get_exec_path()]
    if any(os.path.isfile(file) and os.access(file, os.X_OK) for file in files):
        return 0
    if any(os.path.exists(file) for file in files):
        stdio.say(f"agentcgroup: {clean(program)}: found, but not executable")
        return 126
    stdio.say(f"agentcgroup: {clean(program)}: command not found")
    return 127


def report_path(path: str | None) -> str | None:
    """The whole path of ``--report``, if it can be written.  Raises AgentCgroupError."""
    if path is None:
        return None
    try:
        path = os.path.abspath(path)
    except OSError:
        raise AgentCgroupError(
            f"--report {path} can't be written", "the current folder was removed", "give the file's whole path"
        ) from None
    folder = os.path.dirname(path)
    if not os.path.isdir(folder) or os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise AgentCgroupError(
            f"--report {path} can't be written",
            "its folder is missing or not writable, or it is a folder",
            "give a file in an existing folder",
        )
    return path


def free_name(argv: tuple[str, ...]) -> str:
    """A name made from the command's and this process's id, so that runs side by side differ."""
    letters = (letter if letter.isalnum() and letter.isascii() else "-" for letter in os.path.basename(argv[0]))
    return f"{''.join(letters).strip('-')[:24].strip('-') or 'session'}-{os.getpid()}"
