"""``agentcgroup daemon``, ``install``, ``uninstall``, ``status`` and ``top``."""

from typing import Annotated, Literal

import typer

from agentcgroup.cli.app import PolicyFile, app


@app.command()
def daemon(
    policy: PolicyFile = None,
    events: Annotated[Literal["auto", "bpf", "connector"], typer.Option(help="Where events come from, as for run.")] = "auto",
    metrics: Annotated[str, typer.Option(help="Where Prometheus may ask, as ADDRESS:PORT, or off.")] = "127.0.0.1:9753",
) -> int:
    """Govern every container labelled agentcgroup.enable=true, and be the host process of every run; until SIGTERM.

    Further labels: agentcgroup.name, agentcgroup.priority (high, normal, low), agentcgroup.memory, and agentcgroup.policy=NAME for
    /etc/agentcgroup/policies/NAME.yaml.  SIGHUP reads the policy again.
    """
    from agentcgroup.service.daemon import Options, run

    return run(Options(policy, events, metrics))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> int:
    """What runs now: sessions, their tool calls, memory against limits, who waits and for whom."""
    from agentcgroup.service.status import show

    return show(as_json)


@app.command()
def top() -> int:
    """What runs now, live: sessions and calls, memory against limits, who waits, what was done.  Keys are shown at the bottom."""
    from agentcgroup.service.top import run

    return run()


@app.command()
def install() -> int:
    """Install the daemon as a systemd service, and start it."""
    from agentcgroup.service.install import install as put_in_place

    return put_in_place()


@app.command()
def uninstall() -> int:
    """Stop the service and take it away; running agents go on."""
    from agentcgroup.service.install import uninstall as take_away

    return take_away()
