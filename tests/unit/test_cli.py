"""The command line: what it refuses, in which words, with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.call_client import announced, parse
from agentcgroup.errors import AgentCgroupError
from agentcgroup.kernel import probe


def agentcgroup(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "agentcgroup", *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--name", "a b"], "session name 'a b' refused"),
        (["--name", "x" * 60], "1 to 40"),
        (["--memory", "lots"], "is not a size"),
        (["--memory", "1M"], "too small"),
        (["--policy", "/no/file"], "No such file"),
        (["--report", "/no/folder/x"], "can't be written"),
        (["--priority", "urgent"], "urgent"),
        (["--cpu-weight", "0"], "--cpu-weight"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_run_refuses_bad_options_before_anything_starts(options: list[str], words: str, tmp_path: Path) -> None:
    done = agentcgroup("run", *options, "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "nonsense"),
        (["run"], "no command"),
        (["run", "--memory", "big", "--", "true"], "is not a size"),
        (["run", "--memory", "101%", "--", "true"], "is not a size"),
        (["run", "--policy", "/none", "--", "true"], "No such file"),
        (["policy", "check", "/none"], "No such file"),
        (["policy", "explain"], "no command"),
        (["policy", "explain", "--hint", "memory:x", "--", "ls"], "ignored"),
        (["exec", "--", "true"], "not inside a session"),
        (["exec", "--bogus"], "unknown option"),
        (["exec", "--hint", "memory:high"], "no command"),
    ],
)
def test_bad_input_exits_2_with_a_clear_line_and_no_traceback(words: list[str], expected: str) -> None:
    done = agentcgroup(*words)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.startswith("agentcgroup: ")
    assert "Traceback" not in done.stderr


EVIL = "\x1b]0;owned\x07\u202e\udcff"


@pytest.mark.parametrize(
    "words",
    [
        ["policy", "explain", "--", EVIL],
        ["policy", "explain", "--", "sh", "-c", f"{EVIL} && make"],
        ["policy", "explain", "--agent", EVIL, "--", "ls"],
        ["policy", "check", f"/none/{EVIL}"],
        ["run", "--", f"/none/{EVIL}"],
        ["run", "--name", EVIL, "--", "true"],
        ["run", "--memory", EVIL, "--", "true"],
        ["run", f"--{EVIL}", "--", "true"],
        ["exec", "--hint", f"memory:{EVIL}", "--", "true"],
        ["explain", EVIL],
        ["explain", f"x/{EVIL}"],
        ["history", "--since", EVIL],
        ["report", EVIL],
        [EVIL],
    ],
)
def test_whatever_is_typed_nothing_reaches_the_terminal_but_text(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentcgroup", *words], capture_output=True, env=os.environ | {"PYTHONUTF8": "1"}
    )
    said = (done.stdout + done.stderr).decode()
    assert said.strip()
    assert all(line.isprintable() for line in said.splitlines()), said
    assert "Traceback" not in said


def test_a_policy_file_may_have_any_name(tmp_path: Path) -> None:
    file = tmp_path / f"{EVIL}.yaml"
    file.write_text("version: 1\n")
    done = agentcgroup("policy", "check", str(file))
    assert done.returncode == 0
    assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())


def test_a_command_that_is_not_there_is_127_as_a_shell_has_it() -> None:
    assert agentcgroup("run", "--", "/no/such/program").returncode == 127
    assert agentcgroup("run", "--", "/etc/passwd").returncode == 126


@pytest.mark.parametrize(
    "words", [[], ["run"], ["exec"], ["doctor"], ["cleanup"], ["policy"], ["policy", "check"], ["policy", "explain"]]
)
def test_every_command_has_help(words: list[str]) -> None:
    done = agentcgroup(*words, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_policy_explain_names_class_rule_and_limits() -> None:
    done = agentcgroup(
        "policy", "explain", "--memory", "2G", "--hint", "memory:512m,timeout:5m", "--", "bash", "-c", "cd x && pytest"
    )
    assert done.returncode == 0
    assert "classes: test (program pytest)" in done.stdout
    assert "512M, then kill" in done.stdout
    assert "5 min 0 s" in done.stdout


def test_policy_check_accepts_and_refuses(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\n")
    assert agentcgroup("policy", "check", str(file)).returncode == 0
    file.write_text("version: 1\nsession: {memory: -1}\n")
    done = agentcgroup("policy", "check", str(file))
    assert done.returncode == 2
    assert f"{file}:2: session.memory" in done.stderr


def test_the_arguments_of_exec() -> None:
    assert parse(["--hint", "memory:high", "--", "make", "-j"]) == ("memory:high", ["make", "-j"])
    assert parse(["--hint=cpu:low", "make", "--hint", "x"]) == ("cpu:low", ["make", "--hint", "x"])
    with pytest.raises(AgentCgroupError, match="bad hint"):
        parse(["--hint", "speed:high", "--", "make"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python3 -m agentcgroup exec -- git --version", ("", ("git", "--version"))),
        ("/usr/bin/python3 /usr/bin/agentcgroup exec --hint memory:high -- sh exec", ("memory:high", ("sh", "exec"))),
        ("python3 -m agentcgroup exec --speed", ("", ())),
        ("docker exec it sh", ("", ())),
        ("", ("", ())),
    ],
)
def test_what_exec_is_about_to_execute_is_in_its_command_line(line: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert announced(tuple(line.split())) == expected


def test_short_help_is_help() -> None:
    for words in ([], ["run"], ["exec"], ["doctor"], ["policy", "check"]):
        done = agentcgroup(*words, "-h")
        assert (done.returncode, "Usage:" in done.stdout) == (0, True), words


def shell(text: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", text.replace("AGENTCGROUP", f"{sys.executable} -m agentcgroup")]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **kwargs)  # type: ignore[call-overload, no-any-return]


def test_output_that_can_not_be_written_is_said_in_a_line_and_a_reader_that_left_is_no_mistake() -> None:
    full = shell("AGENTCGROUP policy explain -- ls >/dev/full")
    assert (full.returncode, full.stderr) == (1, "agentcgroup: the output could not be written: No space left on device\n")
    left = shell("AGENTCGROUP policy explain -- ls | true; echo ${PIPESTATUS[0]}")
    assert left.stdout.strip() in ("0", "141")
    assert left.stderr == ""
    assert shell("AGENTCGROUP policy explain -- ls >&- 2>&-").returncode == 0


def test_a_report_in_a_folder_that_was_removed_is_refused_in_words(tmp_path: Path) -> None:
    package = Path(__file__).parent.parent.parent
    start = f"import sys; sys.path.insert(0, {str(package)!r}); from agentcgroup.cli import main; sys.exit(main())"
    done = shell(f'mkdir gone; cd gone; rmdir ../gone; {sys.executable} -c "{start}" run --report r.json -- true', cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2, "agentcgroup: --report r.json can't be written: the current folder was removed"
    )  # fmt: skip


@pytest.mark.parametrize("variable", ["PYTHONPATH", ""])
def test_a_projects_modules_are_not_ours(tmp_path: Path, variable: str) -> None:
    """Neither those of its PYTHONPATH nor, where we are started with -m, those of the current folder; the environment stays."""
    for name in ("typing", "socket", "json", "typer", "yaml", "contextlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the project was imported')")
    package = Path(__file__).parent.parent.parent
    (tmp_path / "start.py").write_text(
        f"import os, sys; sys.path.insert(1, {str(package)!r}); sys.argv[0] = '/x/{'' if variable else '__main__.py'}'\n"
        f"from agentcgroup.cli import main; code = main(); print(os.environ.get('PYTHONPATH')); sys.exit(code)"
    )
    starter = ["-P", str(tmp_path / "start.py")] if variable else [str(tmp_path / "start.py")]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    environment.pop("PYTHONPATH", None)
    if variable:
        environment[variable] = str(tmp_path)
    words = [sys.executable, *starter, "policy", "explain", "--", "ls"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "explore" in done.stdout
    assert done.stdout.splitlines()[-1] == (str(tmp_path) if variable else "None")


def test_a_fault_of_ours_is_one_plain_line_and_its_details_are_kept(tmp_path: Path) -> None:
    text = "import sys\nfrom agentcgroup import policy\npolicy.load_policy = lambda *_: 1 / 0\nfrom agentcgroup.cli import main\nsys.exit(main())"
    words = [sys.executable, "-c", text, "policy", "check", "x"]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path), "JOURNAL_STREAM": ""}
    )
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("agentcgroup: unexpected ZeroDivisionError: division by zero\n  this is a fault of agentcgroup")
    [details] = tmp_path.iterdir()
    assert str(details) in done.stderr
    assert "Traceback" in details.read_text()
    shown = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "AGENTCGROUP_DEBUG": "1"})
    assert "Traceback" in shown.stderr


def test_a_terminal_without_unicode_shows_escapes() -> None:
    done = shell("PYTHONIOENCODING=ascii AGENTCGROUP policy explain -- $'l\\xfcs\\u2026'")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's capabilities")
def test_doctor_without_rights_says_what_it_may_not_see() -> None:
    words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "agentcgroup", "doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found = {one["feature"]: one for one in json.loads(done.stdout)["findings"]}
    assert "Traceback" not in done.stderr
    assert "root, or the daemon" in found
    assert not found["BPF monitor"]["ok"]
    assert found["process connector"]["needed"]


def test_doctor_goes_on_when_a_check_breaks_and_needs_no_connector_where_bpf_works() -> None:
    assert probe._connector(needed=False).needed is False

    def broken() -> probe.Finding:
        raise PermissionError(1, "Operation not permitted")

    finding = probe._checked(broken)
    assert (finding.ok, finding.feature) == (False, "broken")
    assert "Operation not permitted" in finding.seen
