"""A real agent (mini-swe-agent) with a scripted model, working on the small repository beside this file.

Usage: mini.py FOLDER [TRANSCRIPT.json].  The script has fourteen steps (the first ones and the last are done, if MINI_STEPS says
how many); after a command that was stopped for memory the
model reads the feedback and chooses the narrower command, as a real one would.  Exits 0 when the task is done.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
os.environ.setdefault("MSWEA_GLOBAL_CONFIG_DIR", "/tmp/mini-swe-agent")

from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.test_models import DeterministicModel, make_output

HERE = Path(__file__).parent

STEPS = [
    ("Let me look around.", "ls -la; sleep 0.3"),
    ("What is it about?", "cat README.md; sleep 0.3"),
    ("Where is the code?", "find . -name '*.py' -o -name '*.c' | sort | xargs wc -l; sleep 0.3"),
    ("How does it count?", "grep -rn 'def ' wordcount/ | head -20; sleep 0.3"),
    ("What changed last?", "git log --stat --oneline | cat; sleep 0.3"),
    ("Is the tree clean?", "git status --short; git diff HEAD --stat | cat; sleep 0.3"),
    ("Do the tests pass?", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python3 -m pytest -q -p no:cacheprovider tests"),
    ("It wants its helper package: install the wheel.", "python3 make_wheel.py && python3 -m pip install -q --no-index --target site dist/*.whl && ls site"),
    ("Compile the fast counter.", "gcc -O2 -Wall -o fastcount fastcount.c && ./fastcount README.md"),
    ("Compare both counters.", "test \"$(./fastcount README.md)\" = \"$(python3 -m wordcount README.md)\" && echo same"),
    ("Now the big corpus, all of it in memory.", "PYTHONPATH=site python3 -m wordcount --copies 400000 README.md"),
    ("And the statistics of the result.", "PYTHONPATH=site python3 -c 'import corpusstats; print(corpusstats.mean([1, 2, 3]))'"),
    ("Write down what was found.", "echo 'counters agree' > NOTES && git add NOTES && git commit -qm 'Note the result' && git log --oneline | head -1"),
    ("Done.", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; echo 'both counters agree'; sleep 0.3"),
]  # fmt: skip
NARROWER = ("That was too much at once: stream a part of it.", "PYTHONPATH=site python3 -m wordcount --copies 20000 README.md")


class ReadingModel(DeterministicModel):
    """Goes through its script, but reads what came back: after a stopped command it tries less."""

    def query(self, messages: list[dict[str, str]], **kwargs: object) -> dict:
        observation = str(messages[-1].get("content", ""))
        if "agentcgroup: this command was stopped" in observation:
            return make_output(NARROWER[0], [{"command": NARROWER[1]}], cost=0)
        return super().query(messages, **kwargs)


def prepare(folder: Path) -> None:
    """A fresh copy of the small repository, with a history."""
    shutil.copytree(HERE / "wordcount", folder, dirs_exist_ok=True)
    git = ["git", "-C", str(folder), "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
    for command in (["init", "-q", "-b", "main"], ["config", "user.name", "demo"], ["config", "user.email", "demo@localhost"],
                    ["add", "-A"], ["commit", "-qm", "Count words"]):  # fmt: skip
        subprocess.run([*git, *command], check=True)


def main() -> int:
    folder = Path(sys.argv[1])
    prepare(folder)
    steps = [*STEPS[: int(os.environ.get("MINI_STEPS", len(STEPS))) - 1], STEPS[-1]]
    model = ReadingModel(outputs=[make_output(thought, [{"command": command}], cost=0) for thought, command in steps])
    agent = DefaultAgent(
        model, LocalEnvironment(cwd=str(folder), timeout=300), system_template="You work in a shell.", instance_template="{{task}}",
        output_path=Path(sys.argv[2]) if len(sys.argv) > 2 else None,
    )  # fmt: skip
    result = agent.run("Check that both word counters agree.")
    for message in agent.messages:
        content = str(message.get("content", "")).strip()
        command = "".join(f"\n$ {action['command']}" for action in message.get("extra", {}).get("actions", []))
        print(f"--- {message['role']}: {content}{command}", flush=True)
    return 0 if result.get("exit_status") == "Submitted" else 1


if __name__ == "__main__":
    sys.exit(main())
