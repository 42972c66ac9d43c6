"""``hotstart agent``: run, start, stop or ask the agent of this root."""

from __future__ import annotations

import os

import click

from agent.launch import (
    LOCK_TAKEN_STATUS,
    UNSUPPORTED_STATUS,
    AgentDidNotStart,
    await_end,
    connect,
    is_running,
    make_root,
    require_root,
)
from agent.metrics_address import MetricsAddress
from agent.values import (
    METRICS_VARIABLE,
    PATIENCE_VARIABLE,
    QUOTA_VARIABLE,
    STORE_VARIABLE,
    FillerName,
)
from cli.agents import open_agent
from cli.command import HotstartCommand
from cli.container_cmd import duration
from cli.mount_cmd import FILLERS
from cli.output import say, show, show_json
from cli.parameters import Finite, Parsed
from cli.settings import Settings
from hotstart.core.errors import Conflict, Unsupported
from hotstart.kernel.pidfd import ProcessIdentity

_PATIENCE = click.option(
    "--patience",
    "patience_s",
    type=Finite(min=0),
    metavar="SECONDS",
    help="How long readers wait for a store that is away.",
)


def _quota(text: str) -> str:
    """Check a quota; the text is passed on."""
    from lazyfs.cache_quota import parse_quota  # only where one is given

    parse_quota(text)
    return text


_QUOTA = click.option(
    "--cache-quota",
    metavar="SIZE",
    envvar=QUOTA_VARIABLE,
    type=Parsed("size", _quota),
    help="What the cache may take of the disk: 200g, 512m, or none. Kept until it is set again.",
)

_METRICS = click.option(
    "--metrics",
    metavar="HOST:PORT",
    envvar=METRICS_VARIABLE,
    type=Parsed("address", MetricsAddress.parse),
    help="Serve metrics for Prometheus there, and nowhere else: 127.0.0.1:9464  [default: off]",
)


@click.group("agent")
def agent() -> None:
    """Run, start, stop or ask the node agent: one per root."""


@agent.command("run", cls=HotstartCommand)
@click.option(
    "--filler", type=FILLERS, default="auto", show_default=True, help="How absent data is brought."
)
@_QUOTA
@_PATIENCE
@_METRICS
@click.pass_obj
def run(
    settings: Settings,
    filler: FillerName,
    cache_quota: str | None,
    patience_s: float | None,
    metrics: MetricsAddress | None,
) -> int:
    """Run the agent here, until it is told to end; its lines go to stderr too."""
    from agent.main import main as serve  # a whole server: only this command needs it

    require_root("the agent")
    _set_quota(settings, cache_quota)
    if settings.store:
        os.environ[STORE_VARIABLE] = settings.store_url
    if patience_s is not None:
        os.environ[PATIENCE_VARIABLE] = f"{patience_s:g}"
    _set_metrics(settings, metrics)
    status = serve(["--root", str(settings.root), "--filler", filler, "--foreground"])
    if status == LOCK_TAKEN_STATUS:
        raise Conflict(
            f"another agent runs for {settings.root}", "end it first: hotstart agent stop"
        )
    if status == UNSUPPORTED_STATUS:
        raise Unsupported("the agent cannot run here; its last line says why; see hotstart doctor")
    if status != 0:
        raise AgentDidNotStart("the agent could not start; its last line says why")
    return 0


@agent.command("start", cls=HotstartCommand)
@click.option(
    "--filler", type=FILLERS, default="auto", show_default=True, help="How absent data is brought."
)
@_QUOTA
@_PATIENCE
@_METRICS
@click.pass_obj
def start(
    settings: Settings,
    filler: FillerName,
    cache_quota: str | None,
    patience_s: float | None,
    metrics: MetricsAddress | None,
) -> None:
    """Start the agent in the background; no error if it runs already."""
    require_root("the agent")
    if patience_s is not None:
        if is_running(settings.root):
            raise Conflict(
                f"the agent of {settings.root} runs, with a patience of its own",
                "end it first: hotstart agent stop",
            )
        os.environ[PATIENCE_VARIABLE] = f"{patience_s:g}"
    _set_metrics(settings, metrics)
    _set_quota(settings, cache_quota)
    with open_agent(settings, filler=filler) as client:
        status = client.status()
    if filler not in ("auto", status.filler):
        raise Conflict(
            f"the agent of {settings.root} runs and fills by {status.filler}, not by {filler}",
            "end it first: hotstart agent stop --all",
        )
    if metrics is not None and not metrics.is_served_at(status.metrics_url):
        raise Conflict(
            f"the agent of {settings.root} runs and serves metrics at "
            f"{status.metrics_url or 'no address'}, not at {metrics.url}",
            "end it first: hotstart agent stop",
        )
    if settings.json:
        show_json(status)
    else:
        show(str(status.pid))


@agent.command("stop", cls=HotstartCommand)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also stop containers, unmount everything, end keepers and workers.",
)
@click.pass_obj
def stop(settings: Settings, everything: bool) -> None:
    """End the agent. Containers keep running unless --all is given."""
    stopped = 0
    running = is_running(settings.root)
    if running or (everything and _left_something(settings)):
        # Containers of an agent that has ended are found again by starting it.
        with open_agent(settings) as client:
            process = ProcessIdentity.of(client.status().pid)
            stopped = client.shutdown(everything=everything)
        await_end(settings.root, process)
    if settings.json:
        show_json({"was_running": running, "stopped_containers": stopped})
    elif not running and not stopped:
        say(f"hotstart: no agent ran for {settings.root}")


def _set_quota(settings: Settings, quota: str | None) -> None:
    """Keep a quota that was given; an agent that runs has it at its next check."""
    from lazyfs.cache_quota import parse_quota, write_quota  # only here

    if quota:
        make_root(settings.root)
        write_quota(settings.root, parse_quota(quota))


def _set_metrics(settings: Settings, metrics: MetricsAddress | None) -> None:
    """Have the agent that is started next serve metrics. Raises what ``listen`` does."""
    if metrics is None or is_running(settings.root):
        return
    metrics.listen().close()  # refuses here what the agent would refuse in its log
    os.environ[METRICS_VARIABLE] = str(metrics)


def _left_something(settings: Settings) -> bool:
    """Tell whether an agent that has ended left its keeper, and so mounts or containers."""
    return (settings.root / "run" / "keeper.sock").exists()


@agent.command("status", cls=HotstartCommand)
@click.pass_obj
def status(settings: Settings) -> None:
    """Tell about the running agent; fails when none runs."""
    with connect(settings.root) as client:
        found = client.status()
    if settings.json:
        show_json(found)
        return
    show(f"root        {found.root}")
    show(f"version     {found.version}")
    show(f"pid         {found.pid}, for {duration(found.uptime_s)}")
    show(f"filler      {found.filler}")
    show(f"containers  {found.running} running")
    show(f"mounts      {found.mounts}")
    show(f"metrics     {found.metrics_url or 'off'}")
    for worker in found.workers:
        show(f"{worker.kind:<11} pid {worker.pid}, started {worker.starts} times")
