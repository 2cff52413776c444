"""AgentCgroup: a cgroup for each tool call of an AI coding agent, and a word with the agent instead of a kill."""

__version__ = "0.1.0"
