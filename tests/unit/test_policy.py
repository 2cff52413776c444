"""Policies: what is accepted, and how mistakes are reported."""

from pathlib import Path

import pytest

from agentcgroup.classify import classify, split_budget
from agentcgroup.errors import AgentCgroupError
from agentcgroup.policy import default_policy_path, load_policy, parse_policy


def test_the_shipped_policy_is_valid_and_knows_the_usual_commands() -> None:
    policy = load_policy()
    names = {rule.name for rule in policy.classes}
    assert {"test", "install", "build", "git", "explore", "language-server", "mcp-server"} <= names
    assert {rule.name for rule in policy.agents} >= {"claude code", "codex", "gemini cli", "mini-swe-agent"}


def test_the_policy_in_the_readme_is_one() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    policy = parse_policy(text, "README.md")
    assert policy.agents[0].name == "mine"
    assert {rule.name for rule in policy.classes} == {rule.name for rule in load_policy().classes}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\nsession:\n  memory: 400%\n", "p.yaml:3: session.memory: a share lies between 0% and 100%"),
        ("version: 1\nclasses:\n  - name: x\n    limits:\n      memory: big\n", "p.yaml:5: classes.0.limits.memory: 'big' is not a size"),
        ("version: 1\nsessoin: {}\n", "p.yaml:2: sessoin: Extra inputs are not permitted"),
        ("version: 2\n", "p.yaml:1: version: Input should be 1"),
        ("session: {}\n", "p.yaml:1: version: Field required"),
        ("version: 1\nclasses:\n  - name: x\n    regex: '['\n", "p.yaml:4: classes.0.regex: not a regular expression"),
        ("version: 1\nclasses:\n  - name: x\n    on_limit: {memory: explode}\n", "p.yaml:4: classes.0.on_limit.memory: Input should be"),
        ("a: [\n", "p.yaml:2: not YAML"),
        ("- 1\n", "p.yaml:1: a policy is a mapping"),
        ("", "p.yaml:1: a policy is a mapping"),
        ("version: 1\nx: !!python/object:os.system {}\n", "p.yaml:2: not YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_file_line_and_key(text: str, expected: str) -> None:
    with pytest.raises(AgentCgroupError) as caught:
        parse_policy(text, "p.yaml")
    assert expected in str(caught.value)


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(AgentCgroupError) as caught:
        parse_policy("version: 1\na: 1\nb: 2\n", "p.yaml")
    assert "p.yaml:2: a" in str(caught.value)
    assert "p.yaml:3: b" in str(caught.value)


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AgentCgroupError, match="No such file"):
        load_policy(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AgentCgroupError, match="not UTF-8"):
        load_policy(tmp_path / "binary.yaml")


def test_each_number_of_the_characterization_has_its_source_beside_it() -> None:
    text = default_policy_path().read_text()
    for figure in ("185M", "518M", "233M", "13500K", "4500K"):
        lines = [line for line in text.splitlines() if figure in line and ("P95" in line or "paper" in line)]
        assert lines, figure


def test_a_key_that_stands_twice_is_refused_with_its_line() -> None:
    with pytest.raises(AgentCgroupError, match=r"p\.yaml:4: memory: the same key twice"):
        parse_policy("version: 1\ndefault:\n  memory: 64M\n  memory: 128M\n", "p.yaml")


def test_a_part_of_a_table_is_completed_from_the_defaults() -> None:
    policy = parse_policy("version: 1\nhints: {memory: {high: 80%}, cpu: {low: 5}}\nsession: {cpu_weight: {high: 500}}\n", "p")
    assert policy.hints.memory == {"low": 0.1, "medium": 0.4, "high": 0.8}
    assert policy.hints.cpu == {"low": 5, "high": 400}
    assert policy.session.cpu_weight == {"high": 500, "normal": 100, "low": 25}


def test_a_policy_of_few_lines_extends_the_shipped_one() -> None:
    shipped = load_policy()
    policy = parse_policy(
        "version: 1\nextends: default\nlaunchers: [starter]\nhints: {memory: {high: 80%}}\n"
        "agents: [{name: mine, runtime: '(^|/)mine$'}]\nclasses: [{name: git, programs: [git], limits: {memory: 1G}}]\n", "p")  # fmt: skip
    assert [one.name for one in policy.agents] == ["mine", *(one.name for one in shipped.agents)]
    assert policy.classes[0].limits.memory == 1 << 30
    assert len(policy.classes) == len(shipped.classes)
    assert policy.launchers == shipped.launchers | {"starter"}
    assert policy.hints.memory["high"] == 0.8


@pytest.mark.parametrize("where", ["classes: [{name: x, regex: '(a+)+b'}]", "agents: [{name: x, runtime: '(\\w*-)*x'}]"])
def test_an_expression_that_may_take_for_ever_is_refused(where: str) -> None:
    with pytest.raises(AgentCgroupError, match="repetition within a repetition"):
        parse_policy(f"version: 1\n{where}\n", "p")


def test_a_pattern_around_a_command_says_where_the_command_is() -> None:
    with pytest.raises(AgentCgroupError, match="needs a group"):
        parse_policy("version: 1\nagents: [{name: x, runtime: x, unwrap: ['eval .*']}]\n", "p")


def test_a_time_of_zero_is_none() -> None:
    policy = parse_policy("version: 1\ndefault: {time: 9s}\nclasses: [{name: x, programs: [x], limits: {time: 0}}]\n", "p")
    budget = split_budget(policy, 1 << 30)
    assert classify(policy, budget, ["x"]).limits.time_s is None
    assert classify(policy, budget, ["y"]).limits.time_s == 9
    assert classify(parse_policy("version: 1\ndefault: {time: 0}\n", "p"), budget, ["y"]).limits.time_s is None
