"""``hotstart doctor``: what this host can do for Hotstart, and why not. Needs no agent.

Ends with 0 only if everything that is required is there; what is merely wished for is shown.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent.filler import filler_route, mount_route
from cli.command import HotstartCommand
from cli.output import show, show_json
from cli.settings import Settings
from hotstart.core.errors import Unsupported
from hotstart.kernel.features import Feature, probe
from snapshotter.criu import INSTALLED, locate


class HostUnfit(Unsupported):
    """This host lacks something that Hotstart cannot do without."""


@click.command("doctor", cls=HotstartCommand)
@click.pass_obj
def doctor(settings: Settings) -> None:
    """Tell what this host can do, what is missing, and why."""
    features = probe(settings.root, _criu())
    filler, why = _filler(features)
    source, because = _source(features, filler)
    missing = [feature for feature in features if feature.required and not feature.present]
    if settings.json:
        show_json(
            {
                "fit": not missing,
                "features": features,
                "filler": {"route": filler, "why": why},
                "mounted_from": {"route": source, "why": because},
            }
        )
    else:
        for feature in features:
            show(_line(feature))
        show(f"\nabsent data is filled by {filler}: {why}")
        show(f"images are mounted from {source}: {because}")
    if missing and settings.json:
        raise click.exceptions.Exit(105)
    if missing:
        names = ", ".join(feature.name for feature in missing)
        raise HostUnfit(f"this host lacks {names}; the lines above say why")


def _criu() -> Path:
    """Return the CRIU that would be used; where none is found the probe says so."""
    try:
        return locate(os.environ)
    except Unsupported:
        return INSTALLED


def _filler(features: tuple[Feature, ...]) -> tuple[str, str]:
    """Return which filler an agent takes by itself, and why."""
    found = {feature.name: feature for feature in features}
    try:
        return filler_route(found.__getitem__)
    except Unsupported as err:
        return "nothing", str(err)


def _source(features: tuple[Feature, ...], filler: str) -> tuple[str, str]:
    """Return what images are mounted from, and why."""
    found = {feature.name: feature for feature in features}
    try:
        return mount_route(found.__getitem__, filler)
    except Unsupported as err:
        return "nothing", str(err)


def _line(feature: Feature) -> str:
    mark = "ok" if feature.present else ("MISSING" if feature.required else "absent")
    needed = "" if feature.present else f" (needed for: {feature.needed_for})"
    return f"{mark:<9}{feature.name:<22}{feature.reason}{needed}"
