"""All commands together: each module adds its own to ``app``."""

from agentcgroup.cli import history, replay, service
from agentcgroup.cli.app import app

__all__ = ["app", "history", "replay", "service"]
