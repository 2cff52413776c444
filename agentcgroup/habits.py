"""Whose a command is, by what its agent was seen to do: the model's, or the agent's own.  Pure.

No agent says which of its commands the model asked for, but each has habits: what the model asks for gets variables that nothing else
gets, or a session of its own (so that it can be ended whole), or the user's shell where everything else gets ``sh``.  One command
alone tells nothing of a habit, so the first ones are judged by their form, and again when there is more to go by.
"""

import re
from dataclasses import dataclass, field

from agentcgroup.model import Kind

_GENERAL = re.compile(
    r"_|PWD|OLDPWD|SHLVL|PATH|HOME|USER|LOGNAME|SHELL|ENV|TZ|TMP|TEMP|TMPDIR|DISPLAY|HOSTNAME|MAIL|CI|EDITOR|VISUAL|COLORTERM|COLUMNS|LINES"
    r"|NO_COLOR|INIT_CWD|AGENT_RESOURCE_HINT|AGENTCGROUP_\w+|\w*PAGER|\w*LESS\w*"
    r"|(TERM|LANG|LC_|GIT_|GH_|FORCE_|CLICOLOR|DEBIAN_|PYTHON|PIP_|UV_|NODE_|NPM_|npm_|BASH_|SSH_|LD_|XDG_|DBUS_|VIRTUAL_ENV|CONDA_|NVM_|FZF_)\w*"
)
"""Variables that programs get for other reasons than that the model asked for them: nobody's sign."""
SEEN_OFTEN = 2
"""So many different texts show a habit; one may be the agent's own, like the login shell that it asks for the user's environment."""
_OFTEN = 3
_MOST_NAMES, _MOST_TEXTS = 4096, 64


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is to see of a command: its program's name, the ``text`` of its shell (None: a bare program).

    ``leads``: it leads a session of its own.  ``names`` are the variables that the agent itself does not have; ``inherits`` is False
    where the agent handed on nothing of its own environment, so that variables say nothing.  ``seen``: False where it ended before it
    could be looked at.
    """

    program: str
    text: str | None
    leads: bool
    names: frozenset[str]
    inherits: bool = True
    seen: bool = True


UNSEEN = Shape("", None, False, frozenset(), inherits=False, seen=False)


@dataclass(frozen=True, slots=True)
class Known:
    """What an agent's habits are worth so far; two that are equal judge every command alike."""

    named: frozenset[str]
    variables: frozenset[str]
    leaders: bool
    other_shell: bool
    texts: bool
    keeps_house: bool
    own_programs: frozenset[str]


@dataclass(slots=True)
class Habits:
    """What an agent was seen to do; shared by all processes of its runtime.

    ``programs`` counts the bare programs of no known class; ``named`` are the policy's variables, once one was seen.
    """

    programs: int = 0
    named: frozenset[str] = frozenset()
    _with: dict[str, set[int]] = field(default_factory=dict)
    _not_signs: set[str] = field(default_factory=set)
    _leading: set[int] = field(default_factory=set)
    _in_other_shells: set[int] = field(default_factory=set)
    _any_text: bool = False
    _bare: dict[str, int] = field(default_factory=dict)
    """How often it started programs before its first shell."""
    _all_bare: int = 0
    _known: tuple[int, Known] | None = None

    @property
    def starts_shells(self) -> bool:
        """Whether it was seen to start a shell with a text."""
        return self._any_text

    def saw_program(self) -> None:
        """A bare program was seen, be it one that the agent talks with."""
        self._all_bare = min(self._all_bare + 1, SEEN_OFTEN)

    def learn(self, shape: Shape) -> None:
        """One more command was seen."""
        names = frozenset(name for name in shape.names if not _GENERAL.fullmatch(name))
        if shape.text is None:
            self.saw_program()
            if len(self._not_signs) < _MOST_NAMES:
                self._not_signs |= names
            if not self._any_text and (shape.program in self._bare or len(self._bare) < _MOST_TEXTS):
                self._bare[shape.program] = min(self._bare.get(shape.program, 0) + 1, _OFTEN)
            return
        self._any_text = True
        text = hash(shape.text)
        if shape.leads:
            _note(self._leading, text)
        if shape.program != "sh":
            _note(self._in_other_shells, text)
        for name in names:
            if name in self._with or len(self._with) < _MOST_NAMES:
                _note(self._with.setdefault(name, set()), text)

    def known(self) -> Known:
        """What can be said by now; the same object until there is more to say."""
        size = hash((self.named, self._any_text, self._all_bare, len(self._not_signs), len(self._leading), len(self._in_other_shells),
                     sum(self._bare.values()), sum(map(len, self._with.values()))))  # fmt: skip
        if self._known is None or self._known[0] != size:
            self._known = size, self._what_is_known()
        return self._known[1]

    def _what_is_known(self) -> Known:
        seen = {name: texts for name, texts in self._with.items() if name not in self._not_signs and len(texts) >= SEEN_OFTEN}
        if len(self._leading) >= SEEN_OFTEN:
            seen = {name: texts for name, texts in seen.items() if len(texts & self._leading) >= SEEN_OFTEN}
        return Known(
            self.named, frozenset(seen), len(self._leading) >= SEEN_OFTEN, len(self._in_other_shells) >= _OFTEN,
            self._any_text, self._any_text and self._all_bare >= SEEN_OFTEN,
            frozenset(name for name, times in self._bare.items() if times >= _OFTEN),
        )  # fmt: skip


def _note(texts: set[int], text: int) -> None:
    if len(texts) < _MOST_TEXTS:
        texts.add(text)


def whose(known: Known, shape: Shape) -> tuple[Kind, str]:
    """Whose a command is, and by which sign."""
    if not shape.seen:
        # A shell with a text takes longer than git's answer to a poll.
        return ("own" if known.keeps_house else "tool"), "ended before it could be looked at"
    signs = known.named or known.variables
    if signs and shape.inherits:
        carried = sorted(signs & shape.names)
        return ("tool", f"has {carried[0]}") if carried else ("own", f"lacks {min(signs)}")
    if shape.text is None:
        return _whose_program(known, shape)
    if known.leaders and not shape.leads and shape.inherits:
        return "own", "leads no session, as the model's commands do"
    if known.other_shell and not known.leaders and shape.program == "sh":
        return "own", "run by sh, and not by the shell that the model's commands have"
    return "tool", "a shell with a text"


def _whose_program(known: Known, shape: Shape) -> tuple[Kind, str]:
    if not known.texts:
        return "tool", "the agent starts no shells"
    if shape.leads and known.leaders and shape.program not in known.own_programs:
        return "tool", "leads a session as the agent's shells do"
    return "own", "a program without a shell"
