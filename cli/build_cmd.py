"""``hotstart build``: a directory or an archive becomes an image in the store. Needs no agent."""

from __future__ import annotations

import os

import click

from cli.command import HotstartCommand
from cli.output import progress, say, show, show_json, size
from cli.parameters import env_option
from cli.settings import Settings
from hotstart.core.errors import NotFound
from hotstart.store.stack import open_store
from image_builder.build import build as build_image
from image_builder.errors import SourceInvalid
from image_builder.options import BuildOptions, BuildResult


@click.command("build", cls=HotstartCommand)
@click.argument("source")
@click.option("-t", "--tag", "reference", required=True, metavar="REF", help="Name of the image.")
@click.option(
    "--cmd",
    multiple=True,
    metavar="WORD",
    help="One word of the command (repeats, may be empty); clears the entrypoint.",
)
@env_option
@click.option("--workdir", metavar="DIR", help="Working directory of the command.")
@click.option("--user", metavar="U[:G]", help="User of the command, name or number.")
@click.option("--base", metavar="REF", help="Upload only chunks that this image lacks.")
@click.option("--trace", metavar="REF", help="Lay out first what starts of this image touched.")
@click.option("--platform", metavar="OS/ARCH", help="Choose from a multi-platform image.")
@click.pass_obj
def build(
    settings: Settings,
    source: str,
    reference: str,
    cmd: tuple[str, ...],
    env: tuple[str, ...],
    workdir: str | None,
    user: str | None,
    base: str | None,
    trace: str | None,
    platform: str | None,
) -> None:
    """Build an image from SOURCE and name it.

    SOURCE is a directory, oci:DIR, oci-archive:FILE or docker-archive:FILE.
    """
    options = BuildOptions(
        command=cmd or None,
        environment=env,
        workdir=workdir,
        user=user,
        base=base,
        trace=trace,
        platform=platform,
    )
    store = open_store(settings.store_url)
    with progress() as sink:
        try:
            result = build_image(source, store, reference=reference, options=options, progress=sink)
        except SourceInvalid as err:
            if _is_missing(source, err.source):
                raise NotFound(str(err), err.hint) from err
            raise
    _tell(settings, reference, result)


def _is_missing(source: str, named: str) -> bool:
    """Tell whether an error about ``named`` is about the whole source, which isn't there."""
    kind, _, rest = source.partition(":")
    path = rest if kind in ("oci", "oci-archive", "docker-archive") else source
    return named == path and not os.path.lexists(path)


def _tell(settings: Settings, reference: str, result: BuildResult) -> None:
    stats = result.stats
    if settings.json:
        show_json(
            {
                "reference": reference,
                "digest": result.descriptor.digest,
                "store": settings.store_url,
                "stats": stats,
            }
        )
        return
    say(
        f"{reference}: {stats.files} files, {size(stats.input_bytes)} in {stats.elapsed_s:.1f} s, "
        f"{size(stats.uploaded_bytes)} uploaded"
    )
    show(str(result.descriptor.digest))
