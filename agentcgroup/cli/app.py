"""All commands and their options.  Each calls one function elsewhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from agentcgroup import __version__

app = typer.Typer(
    name="agentcgroup",
    help="A cgroup for each tool call of an AI coding agent, and a word with the agent instead of a kill.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)
policy_app = typer.Typer(
    help="Check a policy file, or ask what it means for a command.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(policy_app, name="policy")

_COMMAND = {"allow_extra_args": True, "allow_interspersed_args": False}
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="Policy file (default: /etc/agentcgroup/policy.yaml, else the shipped one).")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"agentcgroup {__version__}")
        raise typer.Exit


@app.command(context_settings=_COMMAND)
def run(
    context: typer.Context,
    name: Annotated[str | None, typer.Option(help="The session's name (default: made from the command's).")] = None,
    priority: Annotated[
        Literal["high", "normal", "low"] | None, typer.Option(help="Against other sessions (default: the policy's).")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="The session's memory budget, e.g. 2G or 50% (default: the policy's).")
    ] = None,
    cpu_weight: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="CPU weight among sessions (default: by priority).")
    ] = None,
    policy: PolicyFile = None,
    events: Annotated[
        Literal["auto", "bpf", "connector"],
        typer.Option(
            help="Where events come from: the BPF monitor, the kernel's process connector, or the better one that works."
        ),
    ] = "auto",
    enforcer: Annotated[
        Literal["auto", "memcg_bpf", "sched_ext", "cgroup"],
        typer.Option(
            help="What slows calls that others have to wait for: in the kernel, by cgroup files, or the best one that works."
        ),
    ] = "auto",
    report: Annotated[Path | None, typer.Option(help="Write the summary as JSON to this file.")] = None,
    docker: Annotated[
        str | None, typer.Option(help="In a new container of this image, which the daemon governs.", metavar="IMAGE")
    ] = None,
) -> int:
    """Run an agent in a session: agentcgroup run [OPTIONS] -- CMD...

    Each tool call of the agent gets its own cgroup; the exit code is CMD's, a summary goes to stderr.
    """
    from agentcgroup.session.options import Options
    from agentcgroup.session.start import start

    files = [None if file is None else str(file) for file in (policy, report)]
    return start(Options(tuple(context.args), name, priority, memory, cpu_weight, files[0], events, enforcer, files[1], docker))


@app.command("exec", context_settings=_COMMAND)
def exec_() -> None:
    """Inside a session, run a command as a tool call of its own: agentcgroup exec [--hint H] -- CMD...

    H is what AGENT_RESOURCE_HINT may hold: memory:low|medium|high|SIZE, cpu:low|high, timeout:DURATION,
    separated by commas.  The transparent way needs no exec; it is for agents and hooks that want to say so.
    """
    raise typer.Exit(2)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> int:
    """Say what this machine offers, and what to do about what it lacks.  Exit 1 if run can't work."""
    from agentcgroup.kernel.probe import diagnose, print_diagnosis

    return print_diagnosis(diagnose(), as_json)


@app.command()
def cleanup(end: Annotated[bool, typer.Option("--end", help="End agents that still run in stale sessions, too.")] = False) -> int:
    """Clean up after sessions whose run was killed: thaw, lift limits, remove empty cgroups."""
    from agentcgroup.session.embedded import clean_up

    return clean_up(end)


@app.command()
def explain(
    session: Annotated[
        str, typer.Argument(help="SESSION or SESSION/CALL, running or ended since the last boot.", metavar="SESSION[/CALL]")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> int:
    """What was done to a session's tool calls: what was seen, by which rule, what it changed, for how long."""
    from agentcgroup.service.explain import explain as tell

    return tell(session, as_json)


@policy_app.command("check")
def policy_check(file: Annotated[Path, typer.Argument(help="The policy file.")]) -> None:
    """Check a policy file; each mistake with file, line and key.  Exit 2 if there is one."""
    from agentcgroup.policy import load_policy
    from agentcgroup.text import clean

    loaded = load_policy(file)
    base = "extends the shipped policy, in all " if loaded.extends else ""
    name = clean(str(file))
    typer.echo(f"{name}: ok, {base}{len(loaded.classes)} classes, {len(loaded.agents)} known agents")
    if not loaded.classes:
        typer.echo(f"{name}: no command has a class of its own here; add 'extends: default' to keep the shipped ones", err=True)


@policy_app.command("explain", context_settings=_COMMAND)
def policy_explain(
    context: typer.Context,
    policy: PolicyFile = None,
    memory: Annotated[str | None, typer.Option(help="The session's memory budget (default: the policy's).")] = None,
    hint: Annotated[str, typer.Option(help="A hint to be applied.")] = "",
    agent: Annotated[str, typer.Option(help="A known agent that starts it: is it the model's call?")] = "",
    env: Annotated[list[str] | None, typer.Option(help="A variable in its environment, as the agent sets it.")] = None,
) -> int:
    """Which class and limits a command would get, and which rule says so: ... explain -- CMD..."""
    from agentcgroup.policy_words import explain

    return explain(tuple(context.args), policy, memory, hint, agent, env or ())
