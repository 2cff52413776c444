"""What a command line really runs, seen through shells and wrappers.  Pure.

An agent's tool call is nearly always ``/bin/bash -c '<text>'``, where the text may source a snapshot,
``eval`` a quoted command, set variables and chain several programs.  The policy wants the programs.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "fish", "busybox"})

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.S)
_SEPARATORS = frozenset({";", "&", "|", "&&", "||", ";;", "(", ")", "|&", "\n", "{", "}"})
_KEYWORDS = frozenset({"if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "!", "time"})
_BUILTINS = frozenset(
    [
        ".",
        ":",
        "[",
        "alias",
        "bg",
        "bind",
        "builtin",
        "cd",
        "command",
        "declare",
        "disown",
        "echo",
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
_WRAPPERS = {
    "env": {"-u", "-C", "-S"}, "nice": {"-n"}, "ionice": {"-c", "-n"}, "timeout": {"-s", "-k"}, "nohup": set[str](),
    "time": {"-f", "-o"}, "stdbuf": {"-i", "-o", "-e"}, "setsid": set[str](), "sudo": {"-u", "-g"}, "xvfb-run": {"-s"},
    "exec": {"-a"}, "command": set[str](), "builtin": set[str](),
}  # fmt: skip
_TWO_WORD_WRAPPERS = {("uv", "run"), ("poetry", "run"), ("pipenv", "run"), ("hatch", "run"), ("npm", "exec"), ("bundle", "exec")}
_DEEPEST = 6
_LONGEST = 20_000


def program(argv: Sequence[str]) -> str:
    """The program's own name: ``/usr/bin/python3.13`` is ``python3.13``, a login shell's ``-bash`` is ``bash``."""
    return PurePath(argv[0]).name.lstrip("-") if argv else ""


def shell_text(argv: Sequence[str]) -> str | None:
    """The text of ``sh -c TEXT`` (also ``-lc``, ``-o opt -c``), None when this is no such shell."""
    if program(argv) not in SHELLS:
        return None
    rest = iter(argv[1:])
    for word in rest:
        if word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            next(rest, None)
        elif word.startswith("-") and not word.startswith("--") and "c" in word:
            return next(rest, None)
        elif not word.startswith(("-", "+")):
            return None
    return None


def assignments(argv: Sequence[str], name: str) -> list[str]:
    """Values that a shell's text gives to a variable, literally: ``NAME=value command``, ``export NAME='value'``."""
    text = shell_text(argv) or ""
    found = re.findall(rf"(?<![\w$]){re.escape(name)}=(?:'([^']*)'|\"([^\"]*)\"|([^\s;&|'\"]*))", text[:_LONGEST])
    return [single or double or bare for single, double, bare in found]


def is_waiting_shell(argv: Sequence[str]) -> bool:
    """Whether this is a shell without text or script: it will be fed commands, or asks a person for them."""
    if program(argv) not in SHELLS - {"busybox"}:
        return False
    rest = iter(argv[1:])
    for word in rest:
        if word in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file"):
            next(rest, None)
        elif word == "-s":
            return True
        elif not word.startswith(("-", "+")) or (not word.startswith("--") and "c" in word):
            return False
    return True


def simple_commands(argv: Sequence[str]) -> list[list[str]]:
    """The programs with their arguments that a command line runs, in order, wrappers taken off.

    Shell text is taken apart at separators and inside ``eval`` and nested ``-c``; variables and
    here-documents stay as they are written.  Text that no shell grammar fits comes back as it is.
    """
    return _commands(list(argv), 0)


def external_commands(text: str) -> list[list[str]]:
    """The commands of a shell text that are programs rather than the shell's own builtins."""
    return [words for words in _split(text, 0) if words[0] not in _BUILTINS]


def _commands(words: list[str], depth: int) -> list[list[str]]:
    words = _unwrap(words)
    if not words:
        return []
    text = shell_text(words)
    if text is None and words[0] == "eval":
        text = " ".join(words[1:])
    if text is None or depth >= _DEEPEST:
        return [words]
    return _split(text, depth) or [words]


def _split(text: str, depth: int) -> list[list[str]]:
    lexer = shlex.shlex(text[:_LONGEST].replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[list[str]] = []
    current: list[str] = []
    try:
        for token in lexer:
            if set(token) & set("<>") and set(token) <= set(";&|()<>"):
                next(lexer, None)  # a redirection's target is no argument
            elif token in _SEPARATORS or set(token) <= set(";&|()"):
                found += _commands(current, depth + 1)
                current = []
            elif current or token not in _KEYWORDS:
                current.append(token)
    except ValueError:  # an unclosed quote: keep what was understood before it
        pass
    return found + _commands(current, depth + 1)


def _unwrap(words: list[str]) -> list[str]:
    """Take off assignments, ``env``, ``timeout 60``, ``uv run`` and the like."""
    while words:
        if _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        elif tuple(words[:2]) in _TWO_WORD_WRAPPERS:
            words = _skip_options(words[2:], set())
        elif (name := program(words)) in _WRAPPERS and len(words) > 1:
            words = _skip_options(words[1:], _WRAPPERS[name])
            if name == "timeout":
                words = words[1:]
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
    text = shell_text(argv) or shlex.join(argv)
    # A tool call's text is hostile input to the terminal that shows it: no escape sequences.
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    return line if len(line) <= width else line[: width - 1] + "…"


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The command as the model wrote it, and how it was found, step by step."""

    command: str
    steps: tuple[str, ...] = ()


def unwrap(argv: Sequence[str], patterns: Sequence[str] = ()) -> Unwrapped:
    """Take off what an agent put around a command; ``patterns`` are those of the agent's policy rule."""
    text = shell_text(argv)
    return Unwrapped(shlex.join(argv) if text is None else text)


def key(command: str) -> str:
    """Two calls ran the same command when these are equal."""
    return " ".join(command.split())
