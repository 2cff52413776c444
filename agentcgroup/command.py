"""What a command line really runs, seen through shells and wrappers.  Pure.

An agent's tool call is nearly always ``/bin/bash -c '<text>'``, where the text may source a snapshot,
``eval`` a quoted command, set variables and chain several programs.  The policy wants the programs,
people want the command that the model wrote (``unwrap``).  A text that can't be read stays whole:
its only program is the shell.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from agentcgroup.shell_grammar import Cost, Simple, Statement, parse
from agentcgroup.text import clean

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "fish", "busybox"})

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.S)
_BUILTINS = frozenset(
    [
        "((",
        ".",
        ":",
        "[",
        "[[",
        "alias",
        "bg",
        "bind",
        "builtin",
        "caller",
        "cd",
        "command",
        "compgen",
        "complete",
        "declare",
        "dirs",
        "disown",
        "echo",
        "enable",
        "eval",
        "exec",
        "exit",
        "export",
        "false",
        "fg",
        "getopts",
        "hash",
        "help",
        "history",
        "jobs",
        "let",
        "local",
        "logout",
        "mapfile",
        "popd",
        "printf",
        "pushd",
        "pwd",
        "read",
        "readonly",
        "return",
        "set",
        "shift",
        "shopt",
        "source",
        "suspend",
        "test",
        "times",
        "trap",
        "true",
        "type",
        "typeset",
        "ulimit",
        "umask",
        "unalias",
        "unset",
        "wait",
    ]
)

# Programs that run the rest of their arguments: name -> options that take a value.
_NPX = {"-p", "--package", "-c", "--call", "-w", "--workspace"}
_WRAPPERS = {
    "env": {"-u", "-C", "-S", "--unset", "--chdir"}, "nice": {"-n"}, "ionice": {"-c", "-n", "-p"}, "timeout": {"-s", "-k"},
    "nohup": set[str](), "time": {"-f", "-o"}, "stdbuf": {"-i", "-o", "-e"}, "setsid": set[str](),
    "sudo": {"-u", "-g", "-D", "-C", "-h", "-p", "-r", "-t", "--user", "--group"}, "doas": {"-u"}, "xvfb-run": {"-s", "-n"},
    "exec": {"-a"}, "command": set[str](), "builtin": set[str](), "chrt": {"-T", "-P", "-D"}, "taskset": set[str](),
    "xargs": {"-n", "-P", "-I", "-L", "-d", "-s", "-a", "-E"}, "npx": _NPX, "bunx": _NPX, "uvx": {"--from", "--with", "-p", "--python"},
}  # fmt: skip
_UV = {"--directory", "--project", "--with", "--with-requirements", "--with-editable", "-p", "--python", "--extra", "--group",
       "--env-file", "--index", "--index-url", "--package", "--from", "--config-file", "--cache-dir"}  # fmt: skip
_CONDA = {"-n", "--name", "-p", "--prefix", "--cwd"}
_TWO_WORD_WRAPPERS: dict[tuple[str, str], set[str]] = {
    ("uv", "run"): _UV, ("poetry", "run"): {"-C", "-P"}, ("pipenv", "run"): set(), ("hatch", "run"): set(), ("pdm", "run"): set(),
    ("rye", "run"): set(), ("npm", "exec"): _NPX, ("pnpm", "exec"): set(), ("pnpm", "dlx"): {"--package"}, ("yarn", "dlx"): {"-p"},
    ("yarn", "exec"): set(), ("bundle", "exec"): set(), ("conda", "run"): _CONDA, ("mamba", "run"): _CONDA,
    ("micromamba", "run"): _CONDA, ("pipx", "run"): {"--spec", "--python"}, ("uv", "tool"): _UV,
}  # fmt: skip
_YARN_OWN = frozenset(
    ["add", "install", "remove", "upgrade", "up", "run", "test", "build", "start", "init", "why", "list", "pack", "publish", "link", "unlink", "cache", "config", "info", "workspace", "workspaces", "set", "import", "audit", "outdated", "global", "create", "version", "node", "bin", "dedupe", "rebuild", "plugin", "constraints"]
)  # fmt: skip
_WORDS_AFTER = {"timeout": 1, "taskset": 1, "chrt": 1}
"""Words that stand between such a wrapper and its command."""
_TAKES_FILES_AFTER_DASHES = frozenset(
    ["rm", "cp", "mv", "touch", "mkdir", "rmdir", "ln", "cat", "ls", "grep", "egrep", "rg", "git", "docker", "podman", "kubectl"]
)
_DEEPEST = 6
_MOST_COMMANDS = 200
_LONGEST_SHOWN = 2000


def program(argv: Sequence[str]) -> str:
    """The program's own name: ``/usr/bin/python3.13`` is ``python3.13``, a login shell's ``-bash`` is ``bash``."""
    return PurePath(argv[0]).name.lstrip("-") if argv else ""


def identity(words: Sequence[str]) -> str:
    """Which program a command runs, without its arguments: the program, an interpreter's script or module, a package without version.

    ``node /x/server/index.js --a`` is ``node /x/server/index.js``, ``python3 -u -m pytest`` is ``pytest``.
    """
    if not words:
        return ""
    first = re.sub(r"(?<=[^@])@[^/@]*$", "", words[0][:400])
    if not re.fullmatch(r"node|nodejs|bun|deno|ts-node|tsx|(python|pypy)[\d.]*|ruby|perl|java", program(words)):
        return first
    if (found := module(words)) is not None:
        return found[0]
    script = next((word for word in words[1:20] if not word.startswith("-")), "")
    return f"{first} {script[:400]}".rstrip()


def module(words: Sequence[str]) -> list[str] | None:
    """``python -u -m NAME ARGUMENTS``: the name and its arguments."""
    if not re.fullmatch(r"(python|pypy)[\d.]*", program(words)):
        return None
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word in ("-X", "-W") and rest:
            rest.pop(0)
        elif re.fullmatch(r"-[A-Za-z]*m", word):
            return rest or None
        elif not word.startswith("-") or word.startswith("-c"):
            return None
    return None


_WITH_VALUE = ("-o", "+o", "-O", "+O", "--rcfile", "--init-file")


def shell_text(argv: Sequence[str]) -> str | None:
    """The text of ``sh -c TEXT`` (also ``-lc``, ``-eo pipefail -c``, ``-c -l TEXT``, ``-c -- TEXT``), None when this is no such shell."""
    if program(argv) not in SHELLS:
        return None
    rest = iter(argv[2:] if program(argv) == "busybox" else argv[1:])
    text_follows = False
    for word in rest:
        if word in ("--", "-"):
            following = next(rest, None)
            return following if text_follows else None
        if word.startswith("--"):
            if word in _WITH_VALUE:
                next(rest, None)
        elif word.startswith(("-", "+")) and len(word) > 1:
            text_follows |= word[0] == "-" and "c" in word
            if word[-1] in "oO":
                next(rest, None)
        else:
            return word if text_follows else None
    return None


def _inner_shell(words: Sequence[str]) -> Sequence[str] | None:
    """The shell with a text that an unknown helper starts: ``HELPER ... -- bash -c TEXT``, ``HELPER ... bash -lc TEXT``."""
    if program(words) in SHELLS or program(words) in _TAKES_FILES_AFTER_DASHES:
        return None
    for at in range(len(words) - 3, max(0, len(words) - 12), -1):
        if program(words[at:]) in SHELLS and words[at + 1].startswith("-") and shell_text(words[at:]) is not None:
            return words[at:]
    return None


def carried_text(argv: Sequence[str]) -> str | None:
    """The text that a shell is to run: this shell, or the one that this program is to start with it; None where there is none."""
    text = shell_text(argv)
    if text is None and (inner := _inner_shell(argv)) is not None:
        text = shell_text(inner)
    return text


def after_dashes(words: Sequence[str]) -> list[str]:
    """What may be the command of an unknown helper: the words after the first ``--``."""
    if "--" not in words[1:] or program(words) in _TAKES_FILES_AFTER_DASHES:
        return []
    return _unwrap(list(words[list(words).index("--", 1) + 1 :]))


def assignments(argv: Sequence[str], name: str) -> list[str]:
    """Values that a command line really gives to a variable: ``NAME=value command``, ``export NAME=value``, ``env NAME=value``."""
    return [value for one in _all(argv) for known, value in _assigned(one) if known == name]


def _assigned(command: Simple) -> list[tuple[str, str]]:
    words = command.words
    if program(words) in ("export", "declare", "typeset") or (command.assignments and words):
        found = list(command.assignments)
    else:
        found = []
    while words and (program(words) == "env" or _ASSIGNMENT.fullmatch(words[0])):
        if "=" in words[0]:
            found.append((words[0].partition("=")[0], words[0].partition("=")[2]))
            words = words[1:]
        else:
            words = _skip_options(words[1:], _WRAPPERS["env"])
    return found


def is_waiting_shell(argv: Sequence[str]) -> bool:
    """Whether this is a shell without text or script: it will be fed commands, or asks a person for them."""
    if program(argv) not in SHELLS - {"busybox"}:
        return False
    rest = iter(argv[1:])
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif word == "-s":
            return True
        elif not word.startswith(("-", "+")) or (not word.startswith("--") and "c" in word):
            return False
    return True


def simple_commands(argv: Sequence[str]) -> list[list[str]]:
    """The programs with their arguments that a command line runs, in order, wrappers taken off.

    Shell text is read by a grammar, inside ``eval``, nested ``-c`` and here-documents for a shell, too;
    variables stay as they are written.  A text that can't be read comes back with its shell, whole.
    """
    return [words for one in _all(argv) if (words := _unwrap(one.words))]


def external_commands(text: str) -> list[list[str]]:
    """The commands of a shell text that are programs rather than the shell's own builtins."""
    return [words for words in simple_commands(("sh", "-c", text)) if words[0] not in _BUILTINS]


def _all(argv: Sequence[str]) -> list[Simple]:
    """All simple commands, with those of texts within instead of the shells that run them."""
    cost = Cost()
    found: list[Simple] = []
    waiting = [(Simple(list(argv)), 0)]
    while waiting:
        command, depth = waiting.pop()
        text = _text_of(command)
        script = parse(text, cost) if text is not None and depth < _DEEPEST else None
        if script is None or not script.commands:
            found.append(command)
        elif len(script.commands) + len(found) + len(waiting) > _MOST_COMMANDS:
            return [Simple(list(argv))]
        else:
            if command.assignments:  # of a shell with a text: they count, the shell itself does not
                found.append(Simple(["true"], command.assignments))
            waiting += [(one, depth + 1) for one in reversed(script.commands)]
    return found


def _text_of(command: Simple) -> str | None:
    """The shell text that a simple command runs."""
    words = _unwrap(command.words)
    if not words:
        return None
    if words[0] == "eval":
        return _eval_text(words)
    text = shell_text(_inner_shell(words) or words)
    if text is None and command.stdin is not None and is_waiting_shell(words):
        return command.stdin
    return text


def _eval_text(words: Sequence[str]) -> str:
    """What ``eval`` runs; a redirection that is quoted away from the calling shell is a part of it."""
    return " ".join(words[1:])


def _unwrap(words: list[str]) -> list[str]:
    """Take off assignments, ``env``, ``timeout 60``, ``uv run`` and the like."""
    while words:
        name = program(words)
        if _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        elif len(words) > 1 and (options := _TWO_WORD_WRAPPERS.get((name, words[1]))) is not None:
            words = _skip_options(words[2:], options)
        elif name == "yarn" and len(words) > 1 and words[1] not in _YARN_OWN and not words[1].startswith("-"):
            words = words[1:]
        elif name == "env" and len(words) > 2 and words[1] in ("-S", "--split-string"):
            words = [*words[2].split(), *words[3:]]
        elif name in _WRAPPERS and len(words) > 1:
            words = _skip_options(words[1:], _WRAPPERS[name])[_WORDS_AFTER.get(name, 0) :]
        else:
            return words
    return words


def _skip_options(words: list[str], with_value: set[str]) -> list[str]:
    while words and words[0].startswith("-"):
        if words[0] == "--":
            return words[1:]
        words = words[2:] if words[0] in with_value else words[1:]
    return words


def display(argv: Sequence[str], width: int = 60) -> str:
    """The command as a person would name it: the text of ``sh -c``, else the words; one line, cut at ``width``."""
    text = shell_text(argv)
    return clean(text or " ".join(shlex.quote(word[:1000]) for word in argv[:200]), width)


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The command as the model wrote it, as it is shown and (``argv``) as it is classed; how it was found, step by step."""

    command: str
    steps: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()


_MATCHED = 4096
"""Characters at the end of a text, and at its beginning, that a policy's pattern sees."""
_GLUE = frozenset(
    [
        "source",
        ".",
        "shopt",
        "set",
        "unalias",
        "alias",
        "trap",
        "pwd",
        "cd",
        "export",
        "exit",
        "unset",
        "true",
        ":",
        "return",
        "wait",
        "umask",
        "ulimit",
        "declare",
        "typeset",
        "readonly",
    ]
)


def unwrap(argv: Sequence[str], patterns: Sequence[str] = ()) -> Unwrapped:
    """Take off what an agent put around a command; ``patterns`` are those of the agent's policy rule.

    Beyond the patterns, by structure: a shell behind a helper, ``eval``, a group, or a here-document for a
    shell, where nothing else in the text is more than glue (``source``, ``shopt``, ``trap``, ``exit $code``, ...).
    """
    words: Sequence[str] = list(argv)
    if (inner := _inner_shell(words)) is not None:
        words, steps = inner, [f"started by {program(argv)}"]
    else:
        steps = []
    text = shell_text(words)
    if text is None:
        return Unwrapped(clean(shlex.join(list(argv)[:200]), _LONGEST_SHOWN), tuple(steps), tuple(argv))
    steps.append(f"the text of {program(words)} -c")
    for pattern in patterns:
        if (found := re.search(pattern, text if len(text) <= 2 * _MATCHED else text[-_MATCHED:])) and found["command"]:
            text = found["command"]
            steps.append("a pattern of the policy")
            break
    cost = Cost()
    for _ in range(_DEEPEST):
        taken = _taken_off(text, cost)
        if taken is None:
            break
        text, step = taken
        steps.append(step)
    return Unwrapped(clean(text, _LONGEST_SHOWN), tuple(steps), ("sh", "-c", text))


def _taken_off(text: str, cost: Cost) -> tuple[str, str] | None:
    """One wrapper less, and its name; None when the text is the command itself."""
    script = parse(text, cost)
    if script is None or not script.statements:
        return None
    ends_in_exit = any(words[:1] == ["exit"] and "$" in words[-1] for one in script.commands if (words := one.words))
    real = [one for one in script.statements if not _is_glue(one, ends_in_exit)]
    if len(real) != 1:
        return _without_prologue(script.statements, text)
    one = real[0]
    bare = one.text.rsplit("2>&1", 1)[0].rstrip() if one.kind == "redirected_statement" else one.text
    if bare.startswith("{") and bare.endswith("}") and len(script.statements) > 1:
        return bare[1:-1].strip().removesuffix(";"), "a group among glue"
    if (
        bare.startswith("(")
        and bare.endswith(")")
        and not bare.startswith("((")
        and (len(script.statements) > 1 or bare != one.text)
    ):
        return bare[1:-1].strip(), "a subshell"
    if len(one.commands) == 1:
        command = one.commands[0]
        if command.words[:1] == ["eval"]:
            words = [word for word in command.words if word not in ("<", "/dev/null")]
            return _eval_text(words), "eval"
        inner = _text_of(command)
        if inner is not None and not command.assignments and program(command.words) in SHELLS:
            return inner, f"the text of {program(command.words)}"
    return _without_prologue(script.statements, text)


def _is_glue(one: Statement, ends_in_exit: bool) -> bool:
    if one.kind in ("variable_assignment", "variable_assignments", "declaration_command", "unset_command", "file_redirect"):
        return True
    names = {program(command.words) for command in one.commands}
    return bool(names) and (names <= _GLUE or (ends_in_exit and names == {"pgrep"}))


def _without_prologue(statements: Sequence[Statement], text: str) -> tuple[str, str] | None:
    """What follows settings of the shell that only a program makes: ``shopt -u ...; trap ... EXIT; COMMAND``."""
    settings = ("shopt", "trap", "unalias", "set", "source", ".")
    names = [program(one.commands[0].words) if len(one.commands) == 1 else "" for one in statements]
    count = next((at for at, name in enumerate(names) if name not in settings), len(names))
    if count == len(names) or not {"shopt", "trap", "unalias"} & set(names[:count]):
        return None
    at = text.find(statements[count].text, sum(len(one.text) for one in statements[:count]))
    return (text[at:], "settings of the shell before it") if at > 0 else None


_CHANGING = re.compile(r"/tmp/[\w.-]{0,40}-[0-9a-fA-F]{4,40}(?:-cwd)\b|(?<=/fd/)\d+|(?<=/dev/fd/)\d+")


def key(command: str) -> str:
    """Two calls ran the same command when these are equal: without what an agent's wrapper makes anew each time."""
    return _CHANGING.sub("", " ".join(command.split()))
