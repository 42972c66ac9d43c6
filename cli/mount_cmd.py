"""``hotstart mount``, ``umount`` and ``mounts``: images as read-only directories."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from agent.client import Listener
from agent.values import FillerName, MountView
from cli.agents import has_state, open_agent
from cli.command import HotstartCommand
from cli.output import progress, say, show, show_json, size, table
from cli.settings import Settings
from hotstart.core.errors import NotFound

FILLERS = click.Choice(["auto", "fanotify", "fuse"])


@click.command("mount", cls=HotstartCommand)
@click.argument("reference")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--filler", type=FILLERS, help="How absent data is brought  [default: the agent's]")
@click.option(
    "--read-ahead",
    "read_ahead_kib",
    type=click.IntRange(min=4, max=16384),
    metavar="KIB",
    help="Read-ahead of the mount in KiB.",
)
@click.pass_obj
def mount(
    settings: Settings,
    reference: str,
    directory: Path,
    filler: FillerName | None,
    read_ahead_kib: int | None,
) -> None:
    """Mount an image or snapshot at DIRECTORY, read-only; its data comes when it is read.

    REFERENCE may be s3://bucket/prefix: the objects below it, as they are.
    """
    with open_agent(settings, filler=filler or "auto") as client, progress() as sink:
        view = client.mount(
            settings.store_url,
            reference,
            directory.resolve(),
            filler=filler,
            read_ahead_kib=read_ahead_kib or 0,
            listener=Listener(sink, lambda text: say(f"hotstart: {text}")),
        )
    if settings.json:
        show_json(_document(view))
    else:
        show(view.path)


@click.command("umount", cls=HotstartCommand)
@click.argument("directory", type=click.Path(path_type=Path))
@click.pass_obj
def umount(settings: Settings, directory: Path) -> None:
    """Unmount a directory."""
    target = directory.resolve()
    if not has_state(settings):
        raise NotFound(f"nothing is mounted at {target}", "see hotstart mounts")
    with open_agent(settings) as client:
        client.umount(target)
    if settings.json:
        show_json({"unmounted": target})
    else:
        show(str(target))


@click.command("mounts", cls=HotstartCommand)
@click.pass_obj
def mounts(settings: Settings) -> None:
    """List mounted images: where, and how much of each is local."""
    views: tuple[MountView, ...] = ()
    pids: dict[str, int] = {}
    if has_state(settings):
        with open_agent(settings) as client:
            views = client.mounts()
            pids = {worker.kind: worker.pid for worker in client.status().workers}
    if settings.json:
        document = {"keeper_pid": pids.get("keeper"), "worker_pid": pids.get("fill")}
        show_json({**document, "mounts": [_document(view) for view in views]})
        return
    headings = ("PATH", "REFERENCE", "FILLER", "LOCAL", "FETCHED", "USED", "FAULTS", "MEDIAN",
                "P99", "STALLED", "HITS", "RETRIES", "USERS")  # fmt: skip
    show(table(headings, [_row(view) for view in views]))


def _document(view: MountView) -> dict[str, Any]:
    """Return a mount and its prefetch hit rate as JSON."""
    return {**dataclasses.asdict(view), "prefetch_hit_rate": view.prefetch_hit_rate}


def _row(view: MountView) -> tuple[str, ...]:
    hits = view.prefetch_hit_rate
    return (
        view.path or "-",
        # A capture or a pull uses images by their digests: nobody has named those.
        view.reference or view.digest[:19],
        view.filler,
        f"{size(view.bytes_local)} of {size(view.bytes_total)}",
        size(view.bytes_fetched),
        size(view.bytes_used),
        f"{view.misses} of {view.faults}",
        f"{view.fault_median_ms:.1f} ms",
        f"{view.fault_p99_ms:.1f} ms",
        f"{view.stalled_ms / 1000:.2f} s",
        "-" if hits is None else f"{hits:.0%}",
        str(view.retries),
        str(view.users),
    )
