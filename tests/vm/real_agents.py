"""Real agent programs in the virtual host: how each is installed, set up for a model on loopback, started and talked to."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness import AGENTS

PACKED = Path("/job/agents")
"""What scripts/agents fetched."""
INSTALLED = Path("/scratch/agents")
MCP_SERVER = ("python3", str(AGENTS / "mcp_server.py"))


@dataclass(frozen=True)
class RealAgent:
    """``ready`` is what an interactive one shows when it can be typed to, ``stop`` ends the command that runs, ``leave`` the agent."""

    name: str
    headless: Sequence[str]
    interactive: Sequence[str]
    environment: Mapping[str, str]
    set_up: Callable[[Path, Path, str], None]
    ready: str
    stop: Sequence[str]
    leave: str

    def install(self) -> Path:
        """Unpack it, once; returns the folder of its program."""
        place = INSTALLED / self.name
        if not place.exists():
            INSTALLED.mkdir(exist_ok=True)
            subprocess.run(["tar", "-C", INSTALLED, "--zstd", "-xf", PACKED / f"{self.name}.tar.zst"], check=True)
        return place / "node_modules/.bin"

    def prepare(self, home: Path, work: Path, url: str) -> dict[str, str]:
        """Write its configuration; returns its environment."""
        self.set_up(home, work, url)
        general = {
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PATH": f"{self.install()}:{os.environ['PATH']}",
        }
        return general | {name: value.replace("URL", url) for name, value in self.environment.items()}


KEY = "sk-ant-api03-no-key-at-all-0123456789"


def _set_up_claude(home: Path, work: Path, url: str) -> None:
    answered = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(work): {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}},
        "mcpServers": {"echo": {"type": "stdio", "command": MCP_SERVER[0], "args": list(MCP_SERVER[1:])}},
    }
    (home / ".claude.json").write_text(json.dumps(answered))


def _set_up_codex(home: Path, work: Path, url: str) -> None:
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text(f"""
model = "mock"
model_provider = "mock"
check_for_update_on_startup = false
[model_providers.mock]
name = "mock"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
[mcp_servers.echo]
command = {json.dumps(MCP_SERVER[0])}
args = {json.dumps(MCP_SERVER[1:])}
[projects."{work}"]
trust_level = "trusted"
""")


def _set_up_opencode(home: Path, work: Path, url: str) -> None:
    folder = home / ".config/opencode"
    folder.mkdir(parents=True)
    settings = {
        "model": "anthropic/claude-sonnet-4-5",
        "permission": "allow",
        "autoupdate": False,
        "provider": {"anthropic": {"options": {"apiKey": KEY, "baseURL": f"{url}/v1"}}},
        "mcp": {"echo": {"type": "local", "command": list(MCP_SERVER), "enabled": True}},
    }
    (folder / "opencode.json").write_text(json.dumps(settings))


CLAUDE = RealAgent(
    name="claude",
    headless=("claude", "-p", "--dangerously-skip-permissions", "do the task"),
    interactive=("claude", "--dangerously-skip-permissions"),
    environment={
        "ANTHROPIC_BASE_URL": "URL",
        "ANTHROPIC_API_KEY": KEY,
        "IS_SANDBOX": "1",  # or it refuses to leave out its questions as root
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    },
    set_up=_set_up_claude,
    ready="bypass permissions",
    stop=("\x1b",),
    leave="/exit",
)
CODEX = RealAgent(
    name="codex",
    headless=("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "do the task"),
    interactive=("codex", "--dangerously-bypass-approvals-and-sandbox"),
    environment={"OPENAI_API_KEY": KEY},
    set_up=_set_up_codex,
    ready="YOLO|context left|for shortcuts|directory:",
    stop=("\x1b", "/stop", "\r"),
    leave="/quit",
)
OPENCODE = RealAgent(
    name="opencode",
    headless=("opencode", "run", "do the task"),
    interactive=("opencode",),
    environment={"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
    set_up=_set_up_opencode,
    ready="Ask anything",
    stop=("\x1b", "\x1b"),
    leave="/exit",
)
