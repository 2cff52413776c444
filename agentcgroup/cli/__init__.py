"""The command line: typer commands without logic.

``exec`` is on a tool call's path and skips typer (its import alone costs more than the command may);
only its help comes from here.
"""

import sys

from agentcgroup.errors import AgentCgroupError
from agentcgroup.text import clean_lines, tolerate


def main() -> int:
    """Entry point of the ``agentcgroup`` command; returns the exit code."""
    words = sys.argv[1:]
    tolerate(sys.stdout)
    tolerate(sys.stderr)
    try:
        if words[:1] == ["exec"] and words[1:2] not in (["--help"], []):
            from agentcgroup.call_client import main as exec_main

            return exec_main(words[1:])
        from agentcgroup.cli.commands import app

        return int(app(standalone_mode=False) or 0)
    except AgentCgroupError as error:
        print(f"agentcgroup: {clean_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            print(
                f"agentcgroup: {clean_lines(error.format_message())}\n  agentcgroup --help lists commands and options",
                file=sys.stderr,
            )
            return 2
        raise
