"""The policy file: its shape, and how it is read.

A policy is YAML, checked by the models below before anything starts.  Errors name file, line and
key.  What a policy means for one command is decided in ``classify``.
"""

import re
from importlib import resources
from pathlib import Path
from re import _parser as sre_parse  # type: ignore[attr-defined]
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from agentcgroup.errors import AgentCgroupError
from agentcgroup.hints import CpuLevel, MemoryLevel
from agentcgroup.model import Kind, OnLimit, Priority
from agentcgroup.units import parse_duration, parse_size


def _amount(value: object) -> object:
    """``40%`` becomes a share (float up to 1.0), a size becomes bytes (int)."""
    if isinstance(value, str) and value.strip().endswith("%"):
        share = float(value.strip()[:-1]) / 100
        if not 0 < share <= 1:
            raise ValueError("a share lies between 0% and 100%")
        return share
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("write a size (512M) or a share (40%)")
    return parse_size(str(value))


def _size(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("write a size like 512M")
    return 0 if str(value).strip() == "0" else parse_size(str(value))


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("write a duration like 90s or 5m")
    return 0.0 if str(value).strip() in ("0", "0s") else parse_duration(str(value))


def _regex(value: str) -> str:
    try:
        tree = sre_parse.parse(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if len(value) > _LONGEST_REGEX:
        raise ValueError(f"longer than {_LONGEST_REGEX} characters")
    if _repeats_a_repeat(tree):
        raise ValueError("a repetition within a repetition, as in (a+)+, may take for ever; write it without")
    return value


_LONGEST_REGEX = 2000


def _repeats_a_repeat(tree: Any) -> bool:
    """Whether an unbounded repetition holds another one that what follows in it doesn't tell apart: the exponential kind."""
    waiting = [(tree, False)]
    while waiting:
        part, within = waiting.pop()
        for name, what in part:
            repeats = str(name) in ("MAX_REPEAT", "MIN_REPEAT") and what[1] is sre_parse.MAXREPEAT
            if repeats and within:
                return True
            for inner in _parts(what):
                waiting.append((inner, within or repeats))
    return False


def _parts(what: Any) -> list[Any]:
    if isinstance(what, sre_parse.SubPattern):
        return [what]
    return [part for one in what for part in _parts(one)] if isinstance(what, (tuple, list)) else []


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where it is built in: ten times as fast, and every run reads a policy."""

Amount = Annotated[float | int, BeforeValidator(_amount)]
"""int: bytes; float: a share, of the session's budget for tool calls if nothing else is said."""
Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
Regex = Annotated[str, AfterValidator(_regex)]
Weight = Annotated[int, Field(ge=1, le=10_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsRule(_Strict):
    """Limits as the policy writes them; what is left out comes from the class ``default``."""

    memory: Amount | None = None
    swap: Size | None = None
    processes: Annotated[int, Field(ge=2, le=4_194_304)] | None = None
    cpu_weight: Weight | None = None
    cpu_cores: Annotated[float, Field(gt=0, le=4096)] | None = None
    time: Seconds | None = None


class OnLimitRule(_Strict):
    """What is done when a limit is reached: ``kill`` (with feedback), ``tell`` (feedback only), ``nothing``."""

    memory: Literal["kill", "nothing"] | None = None
    time: OnLimit | None = None
    processes: OnLimit | None = None


class ClassRule(_Strict):
    """A kind of command: how it is recognised, and its limits.

    A command matches when one of its programs is in ``programs`` and its arguments match ``args`` (if
    given), or when what one of them is (``command.identity``: path, script, package) matches ``regex``.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    kind: Kind = "tool"
    programs: frozenset[str] = frozenset()
    args: Regex | None = None
    regex: Regex | None = None
    expected: Size | None = None
    limits: LimitsRule = LimitsRule()
    on_limit: OnLimitRule = OnLimitRule()

    @field_validator("regex")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("an empty expression would match every command")
        return value


class DefaultRule(_Strict):
    """The class of a command that no other class recognises; complete, so that every limit has a value."""

    memory: Amount = 0.75
    swap: Size = 0
    processes: Annotated[int, Field(ge=2, le=4_194_304)] = 4096
    cpu_weight: Weight = 100
    cpu_cores: Annotated[float, Field(gt=0, le=4096)] | None = None
    time: Seconds | None = None


class DefaultOnLimit(_Strict):
    memory: Literal["kill", "nothing"] = "kill"
    time: OnLimit = "kill"
    processes: OnLimit = "tell"


def _with_command(value: str) -> str:
    if "command" not in re.compile(value).groupindex:
        raise ValueError("it needs a group (?P<command>...) around the command")
    return value


class CallSigns(_Strict):
    """How the model's calls are told from an agent's own commands: variables that only the calls have in their environment."""

    environment: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")], ...] = ()


class AgentRule(_Strict):
    """A known agent's runtime, what it puts around a command (``unwrap``), and which of its children are the model's ``calls``.

    ``own`` are commands that serve the agent itself, ``helpers`` its servers.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 ._-]{0,47}$")]
    runtime: Regex
    helpers: tuple[Regex, ...] = ()
    own: tuple[Regex, ...] = ()
    unwrap: tuple[Annotated[Regex, AfterValidator(_with_command)], ...] = ()
    calls: CallSigns = CallSigns()


class AgentDomainRule(_Strict):
    """The agent's own runtime: its protected baseline, and the cap that keeps a leak off its calls: by default, all but a reserve for one."""

    baseline: Size = 185 << 20
    memory_max: Amount | None = None
    cpu_weight: Weight = 1000


_SESSION_WEIGHTS: dict[Priority, int] = {"high": 400, "normal": 100, "low": 25}


class SessionRule(_Strict):
    memory: Amount = 0.75
    priority: Priority = "normal"
    cpu_weight: Annotated[dict[Priority, Weight], AfterValidator(lambda given: _SESSION_WEIGHTS | given)] = _SESSION_WEIGHTS
    agent: AgentDomainRule = AgentDomainRule()
    brake: Seconds = 1.0
    thrash: Seconds = 10.0
    end_grace: Seconds = 2.0


class HostRule(_Strict):
    """What all sessions share, and how calls wait for each other's memory (``schedule``)."""

    memory: Amount = 0.9
    reserve: Amount = 0.03
    step: Annotated[Size, Field(ge=1 << 20)] = 16 << 20
    brake: Seconds = 0.25
    turn: Seconds = 10.0
    patience: Seconds = 120.0


class UserRule(_Strict):
    """What each user other than root may have through the daemon: so many sessions, so much memory in all, this priority at most."""

    sessions: Annotated[int, Field(ge=0)] = 8
    memory: Amount = 0.5
    priority: Priority = "normal"


class MonitorRule(_Strict):
    """What the kernel tells of a call's leaf, and how long it holds a new program until it is placed."""

    step: Size = 32 << 20
    step_time: Seconds = 0.01
    stalled: Seconds = 0.1
    starved: Seconds = 0.1
    hold: Seconds = 0.0


class LoopRule(_Strict):
    """Retry loops: from how many calls of one command in a row, and what is done about what they leave."""

    times: Annotated[int, Field(ge=2)] = 3
    reclaim_from: Size = 64 << 20
    processes: Literal["keep", "end"] = "keep"


class HistoryRule(_Strict):
    """What is remembered of what sessions did: for how long, how much, and how often running calls are looked at for it (0: never)."""

    keep: Seconds = 30 * 86400.0
    size: Annotated[Size, Field(ge=1 << 20)] = 200 << 20
    sample: Seconds = 1.0


_HINT_MEMORY: dict[MemoryLevel, float | int] = {"low": 0.1, "medium": 0.4, "high": 1.0}
_HINT_CPU: dict[CpuLevel, int] = {"low": 25, "high": 400}


class HintRule(_Strict):
    """What the levels of a hint mean: shares of the budget for tool calls, and CPU weights."""

    memory: Annotated[dict[MemoryLevel, Amount], AfterValidator(lambda given: _HINT_MEMORY | given)] = _HINT_MEMORY
    cpu: Annotated[dict[CpuLevel, Weight], AfterValidator(lambda given: _HINT_CPU | given)] = _HINT_CPU


class Policy(_Strict):
    """A whole policy file.

    With ``extends: default`` it holds only what differs from the shipped policy: tables merge key by key,
    its agents, classes and launchers come before the shipped ones; one of the same name replaces that.
    """

    version: Literal[1]
    extends: Literal["default"] | None = None
    host: HostRule = HostRule()
    users: UserRule = UserRule()
    session: SessionRule = SessionRule()
    monitor: MonitorRule = MonitorRule()
    loops: LoopRule = LoopRule()
    history: HistoryRule = HistoryRule()
    hints: HintRule = HintRule()
    agents: tuple[AgentRule, ...] = ()
    launchers: frozenset[str] = frozenset()
    default: DefaultRule = DefaultRule()
    default_on_limit: DefaultOnLimit = DefaultOnLimit()
    classes: tuple[ClassRule, ...] = ()


SYSTEM_POLICY = Path("/etc/agentcgroup/policy.yaml")
NAMED_POLICIES = Path("/etc/agentcgroup/policies")
"""Where the label ``agentcgroup.policy=NAME`` finds NAME.yaml."""


def default_policy_path() -> Path:
    """The host's own policy where it has one, else the one that is shipped."""
    return SYSTEM_POLICY if SYSTEM_POLICY.exists() else shipped_policy_path()


def shipped_policy_path() -> Path:
    """The policy that comes with the program: of this checkout, or of the installed package."""
    checkout = Path(__file__).parent.parent / "policies" / "default.yaml"
    return checkout if checkout.exists() else Path(str(resources.files("agentcgroup") / "policies" / "default.yaml"))


def load_policy(path: Path | None = None) -> Policy:
    """Read and check a policy file (by default ``default_policy_path``).

    Raises AgentCgroupError with a line for each mistake: file, line, key, what is wrong.
    """
    path = path or default_policy_path()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise AgentCgroupError(f"policy {path} can't be read", str(why), "give a readable YAML file") from None
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str) -> Policy:
    """Check a policy's text; ``name`` stands for it in errors."""
    do = "see policies/default.yaml for the keys and their meaning"
    try:
        content = yaml.load(text, _LOADER)
        document = yaml.compose(text, _LOADER)
        lines, twice = _lines(document), _repeated(document)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise AgentCgroupError(f"{where}: not YAML", problem, do) from None
    if not isinstance(content, dict):
        raise AgentCgroupError(f"{name}:1: a policy is a mapping", "this is something else", do)
    if twice:
        raise AgentCgroupError("\n".join(f"{name}:{line}: {key}: the same key twice" for key, line in twice), do=do)
    if content.get("extends") == "default":
        content = _extended(content)
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        mistakes = []
        for mistake in error.errors():
            key = _known_key(mistake["loc"], lines)
            message = mistake["msg"].removeprefix("Value error, ")
            mistakes.append(f"{name}:{lines.get(key, 1)}: {'.'.join(map(str, key)) or 'policy'}: {message}")
        raise AgentCgroupError("\n".join(dict.fromkeys(mistakes)), do=do) from None


def _extended(content: dict[str, Any]) -> dict[str, Any]:
    """The shipped policy with what ``content`` says differently."""
    shipped = yaml.load(shipped_policy_path().read_text(encoding="utf-8"), _LOADER)
    merged = _merged(shipped, content)
    for key in ("agents", "classes"):
        mine = content.get(key) or []
        if isinstance(mine, list):
            names = {one.get("name") for one in mine if isinstance(one, dict)}
            merged[key] = [*mine, *(one for one in shipped[key] if one["name"] not in names)]
    mine = content.get("launchers") or []
    if isinstance(mine, list):
        merged["launchers"] = [*mine, *shipped["launchers"]]
    return merged


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _repeated(document: Any) -> list[tuple[str, int]]:
    """Keys that a mapping of the document has twice, with the line of the second."""
    found, waiting, seen = [], [document], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                word = key.value if isinstance(key.value, str) else str(key.start_mark.line)
                if word in keys:
                    found.append((word, key.start_mark.line + 1))
                keys.add(word)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return sorted(found, key=lambda one: one[1])


def _lines(node: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    """Line (from 1) of each key path in a composed YAML document."""
    lines: dict[tuple[Any, ...], int] = {at: node.start_mark.line + 1} if node is not None else {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*at, key.value))
            lines[*at, key.value] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*at, index))
    return lines


def _known_key(loc: tuple[int | str, ...], lines: dict[tuple[Any, ...], int]) -> tuple[int | str, ...]:
    """The part of pydantic's location that exists in the file (the rest names types and union members)."""
    key: tuple[int | str, ...] = ()
    for part in loc:
        if (*key, part) in lines:
            key = (*key, part)
    missing = loc[-1] if loc and loc[-1] not in key else None
    return (*key, missing) if isinstance(missing, str) and missing.isidentifier() and (*key, missing) == loc else key
