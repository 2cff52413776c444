"""A shell's text as commands, by a grammar of the shell (tree-sitter-bash).  Pure.

The text is bounded, and so are the steps of the parser and the nodes looked at: nobody can make a
reading expensive.  A text that is too large or that the grammar can't read has no commands (None):
half of it would be worse than nothing.  Nothing here recurses.
"""

from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

LONGEST_BYTES = 16_384
MOST_STEPS = 20
"""Hundreds of parser operations for all texts of one command line; usual commands take fewer than ten."""
MOST_FAILING_STEPS = 4
"""Repairing a broken text is the parser's most expensive work, and its result is not used."""
DEEPEST = 40
"""Brackets open at once: the parser's repair of what is never closed is quadratic in their number."""
MOST_NODES = 20_000
MOST_KEPT = 16
"""Texts that were read last and are kept."""
MOST_DOCUMENTS = 40
"""``<<`` in one text."""


@dataclass(slots=True)
class Cost:
    """What reading one command line has taken so far: parser steps and nodes."""

    steps: int = 0
    nodes: int = 0


@dataclass(slots=True)
class Simple:
    """A simple command: its words without quotes, the assignments before it, and what a here-document feeds it."""

    words: list[str]
    assignments: list[tuple[str, str]] = field(default_factory=list)
    stdin: str | None = None


@dataclass(slots=True)
class Statement:
    """A statement of the text's top level: the grammar's name for it, its text, and the simple commands in it."""

    kind: str
    text: str
    commands: list[Simple] = field(default_factory=list)


@dataclass(slots=True)
class Script:
    """A text that was read."""

    commands: list[Simple] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)


@cache
def _parser() -> Any:
    import tree_sitter  # here: 70 ms that a start doesn't have to wait for
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def parse(text: str, cost: Cost) -> Script | None:
    """Read a text, which the caller must not change; None when the grammar or the limits don't allow it.  Adds to ``cost``."""
    if len(text) > LONGEST_BYTES or cost.steps > MOST_STEPS or cost.nodes > MOST_NODES:
        return None
    script, took = _parse(text)
    cost.steps += took.steps
    cost.nodes += took.nodes
    return script if cost.steps <= MOST_STEPS and cost.nodes <= MOST_NODES else None


@lru_cache(maxsize=MOST_KEPT)
def _parse(text: str) -> tuple[Script | None, Cost]:
    """The text as it was read, and what that took.  A call's text is asked for again at once: for its class, its command, its hints."""
    cost = Cost()
    source = text.encode("utf-8", "replace")
    if len(source) > LONGEST_BYTES or b"\0" in source or source.count(b"<<") > MOST_DOCUMENTS or _depth(source) > DEEPEST:
        return None, cost
    failing = 0

    def stop(_offset: int, failed: bool) -> bool:
        nonlocal failing
        cost.steps += 1
        failing += failed
        return cost.steps > MOST_STEPS or failing > MOST_FAILING_STEPS

    parser = _parser()
    try:
        tree = parser.parse(lambda offset, _point: source[offset : offset + 4096], progress_callback=stop)
    except ValueError:  # stopped
        parser.reset()
        return None, cost
    if tree is None or tree.root_node.has_error:
        return None, cost
    return _read(tree.root_node, source, cost), cost


def _depth(source: bytes) -> int:
    """How many brackets are open at most, wherever they stand."""
    opened = source.count(b"(") + source.count(b"{") + source.count(b"[")
    if opened <= DEEPEST:
        return opened
    depth = deepest = 0
    for letter in source:
        if letter in b"({[":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in b")}]" and depth:
            depth -= 1
    return deepest


def _read(root: Any, source: bytes, cost: Cost) -> Script | None:
    script = Script()
    bodies: dict[int, Simple] = {}
    stack: list[tuple[Any, Statement | None, bool]] = [(root, None, True)]
    while stack:
        node, statement, top = stack.pop()
        cost.nodes += 1
        if cost.nodes > MOST_NODES:
            return None
        kind = node.type
        body = node.child_by_field_name("body") if kind == "redirected_statement" else None
        flat = top and body is not None and body.type == "list"  # the redirection belongs to the last of the list
        if top and not flat and kind not in ("program", "list", "heredoc_redirect") and node.is_named and kind != "comment":
            statement, top = Statement(kind, _text(node, source)), False
            script.statements.append(statement)
        if kind in ("command", "declaration_command", "unset_command", "test_command"):
            command = _command(node, source)
            script.commands.append(command)
            bodies[node.id] = command
            if statement is not None:
                statement.commands.append(command)
        if body is not None:
            # Its command has to be known before what is fed to it.
            _feed(node, body, source, bodies, script, statement)
            rest = [child for child in node.children if child.id != body.id]
            stack.extend((child, statement, top) for child in reversed(rest))
            if body.type == "command":
                stack.extend((child, statement, top) for child in reversed(body.children))
            else:
                stack.append((body, statement, top))
        elif kind not in ("comment", "raw_string", "word", "heredoc_start", "heredoc_end"):
            stack.extend((child, statement, top) for child in reversed(node.children))
    return script


def _feed(node: Any, body: Any, source: bytes, bodies: dict[int, Simple], script: Script, statement: Statement | None) -> None:
    """The command of a redirected statement, with its here-document and the words that stand behind redirections."""
    if body.type != "command":
        return
    command = _command(body, source)
    script.commands.append(command)
    if statement is not None:
        statement.commands.append(command)
    for child in node.children:
        if child.type == "file_redirect":
            command.words += [_value(word, source) for word in child.children_by_field_name("destination")[1:]]
        elif child.type == "heredoc_redirect":
            bodies_of = [part for part in child.children if part.type == "heredoc_body"]
            command.stdin = "".join(_text(part, source) for part in bodies_of)
            arguments = child.children_by_field_name("argument")
            command.words += [_value(word, source) for word in arguments]


def _command(node: Any, source: bytes) -> Simple:
    command = Simple([])
    if node.type == "test_command":
        command.words.append("[")
        return command
    for child in node.children:
        kind = child.type
        if kind == "variable_assignment":
            name, value = child.child_by_field_name("name"), child.child_by_field_name("value")
            command.assignments.append((_text(name, source), _value(value, source) if value is not None else ""))
            if node.type == "declaration_command":
                command.words.append(_text(child, source))
        elif kind == "file_redirect":
            command.words += [_value(word, source) for word in child.children_by_field_name("destination")[1:]]
        elif kind == "herestring_redirect":
            command.stdin = "".join(_value(part, source) for part in child.named_children)
        elif kind == "command_name":
            command.words.append("".join(_value(part, source) for part in child.children) or _text(child, source))
        elif kind not in ("subshell", "comment"):
            command.words.append(_value(child, source))
    return command


def _text(node: Any, source: bytes) -> str:
    return source[node.start_byte : node.end_byte].decode("utf-8", "replace")


_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def _value(node: Any, source: bytes) -> str:
    """A word as the command gets it; variables and substitutions stay as they are written."""
    if node.type == "concatenation":
        return "".join(_plain(part, source) for part in node.children)
    return _plain(node, source)


def _plain(node: Any, source: bytes) -> str:
    text = _text(node, source)
    if node.type == "raw_string":
        return text[1:-1]
    if node.type == "string":
        return _unescape(text[1:-1], '"\\$`\n', {})
    if node.type == "ansi_c_string":
        return _unescape(text[2:-1], "\\'\"?ntr", _ESCAPED)
    return _unescape(text, None, {}) if node.type == "word" else text


def _unescape(text: str, only: str | None, meaning: dict[str, str]) -> str:
    if "\\" not in text:
        return text
    out: list[str] = []
    letters = iter(text)
    for letter in letters:
        if letter != "\\":
            out.append(letter)
            continue
        following = next(letters, "")
        if only is not None and following not in only:
            out.append("\\" + following)
        elif following != "\n":
            out.append(meaning.get(following, following))
    return "".join(out)
