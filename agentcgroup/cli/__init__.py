"""The command line: typer commands without logic.

``exec`` is on a tool call's path and ``run`` on an agent's, so neither waits for typer (its import alone costs more than they may);
what is not plain, and their help, comes from here.
"""

import sys

from agentcgroup import isolated

_HELP = ("--help", "-h")


def main() -> int:
    """Entry point of the ``agentcgroup`` command; returns the exit code."""
    isolated.isolate()
    from agentcgroup import errors, stdio
    from agentcgroup.text import clean_lines

    stdio.prepare()
    try:
        code = _command(sys.argv[1:])
    except errors.AgentCgroupError as error:
        stdio.say(f"agentcgroup: {clean_lines(str(error))}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if stdio.could_not_write(error):
            code = stdio.failed(error)
        elif hasattr(error, "format_message"):  # click's own usage errors
            stdio.say(f"agentcgroup: {clean_lines(error.format_message())}\n  agentcgroup --help lists commands and options")
            code = errors.USAGE
        else:
            code = errors.report_fault(error)
    return stdio.finish(code)


def _command(words: list[str]) -> int:
    if words[:1] == ["exec"] and words[1:] and words[1] not in _HELP:
        from agentcgroup.call_client import main as exec_main

        return exec_main(words[1:])
    if words[:1] == ["run"]:
        from agentcgroup.session import options
        from agentcgroup.session.start import start

        if (plain := options.parse(words[1:])) is not None:
            return start(plain)
    from agentcgroup.cli.commands import app

    return int(app(standalone_mode=False) or 0)
