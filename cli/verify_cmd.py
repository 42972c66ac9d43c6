"""``hotstart verify``: reads all that references reach, and repairs the cache. Needs no agent.

With an agent it works beside it (lazyfs/cache_check.py says why that is safe). First the store,
then the cache, which is repaired from the store; both are looked at whatever is found.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import click

from cli.command import HotstartCommand
from cli.exit_codes import REPAIRED
from cli.keys import trusted_keys
from cli.output import progress, say, show, show_json, size
from cli.settings import Settings
from cli.stored import load
from cli.verification import Verification, VerificationFailed, Verifier
from hotstart.core.errors import IntegrityError, NotFound
from hotstart.core.progress import ProgressSink
from hotstart.store.manifest import SnapshotManifest
from hotstart.store.references import ReferenceName
from hotstart.store.stack import Store, open_store

if TYPE_CHECKING:
    from lazyfs.cache_check import CacheReport


@click.command("verify", cls=HotstartCommand)
@click.argument("reference", required=False)
@click.option("--trust-unsigned", is_flag=True, help="Do not look at a snapshot's signature.")
@click.option("--no-cache", is_flag=True, help="Look at the store only.")
@click.pass_obj
def verify(
    settings: Settings, reference: str | None, trust_unsigned: bool, no_cache: bool
) -> int | None:
    """Read every object that REFERENCE reaches and compare all digests and signatures.

    What is local of it is compared too, and repaired from the store. Without REFERENCE: every
    reference of the store, and all of the cache.
    """
    store = open_store(settings.store_url, create=False)
    names = [ReferenceName.parse(reference)] if reference else _all_names(store)
    trusted = None if trust_unsigned else partial(trusted_keys, settings.root)
    with progress() as sink:
        results = {name: Verifier(store, trusted, sink).check(name) for name in names}
        cache = None
        if not no_cache:
            cache = _check_cache(settings, store, names if reference else None, sink)
    _refuse_problems(results, cache)
    if settings.json:
        document: dict[str, object] = {"cache": cache}
        if reference:
            document |= {"reference": str(names[0]), "verified": results[names[0]]}
        else:
            document["references"] = {str(name): result for name, result in results.items()}
        show_json(document)
    else:
        for name, result in results.items():
            show(
                f"{name}: {result.objects} objects, {size(result.read_bytes)}, "
                f"{result.chunks} chunks: all as they should be"
            )
        if cache is not None:
            _show_cache(cache)
    return REPAIRED if cache is not None and cache.wrong else None


def _all_names(store: Store) -> list[ReferenceName]:
    return [name for name in store.references.names() if not name.is_reserved]


def _check_cache(
    settings: Settings, store: Store, names: Iterable[ReferenceName] | None, sink: ProgressSink
) -> CacheReport:
    """Check the devices of these references, or all that are local."""
    from lazyfs.cache_check import CacheCheck, lift_quarantine  # not for the help's sake

    device_ids = None if names is None else [one for n in names for one in _devices(store, n)]
    report = CacheCheck(settings.root, store.blobs, sink).check(device_ids)
    lift_quarantine(settings.root)
    return report


def _devices(store: Store, name: ReferenceName) -> list[str]:
    """Return the devices of a reference; none of one that is broken, which is told already."""
    try:
        manifest = load(store, name).manifest
        devices = list(manifest.devices)
        if isinstance(manifest, SnapshotManifest):
            devices.extend(manifest.image().devices)
    except (IntegrityError, NotFound):
        return []
    return [device.device_id for device in devices]


def _refuse_problems(results: dict[ReferenceName, Verification], cache: CacheReport | None) -> None:
    """Say every problem that is left; the first one is in the error's own sentence."""
    problems = [(str(name), text) for name, result in results.items() for text in result.problems]
    if cache is not None:
        problems.extend(("cache", text) for text in cache.unrepaired)
        if problems and cache.wrong:
            _talk_of_repairs(cache)
    for where, text in problems[1:]:
        say(f"hotstart: {where}: {text}")
    if problems:
        raise VerificationFailed(problems[0][0], [text for _, text in problems])


def _talk_of_repairs(cache: CacheReport) -> None:
    say(f"hotstart: cache: {cache.repaired} wrong chunks repaired, {cache.dropped} dropped")
    for path in cache.mounts:
        say(f"hotstart: {path} reads a repaired device: restart what has mapped files of it")


def _show_cache(cache: CacheReport) -> None:
    if cache.wrong:
        _talk_of_repairs(cache)
    for device_id in cache.unknown:
        say(f"hotstart: device {device_id[:12]} is of another store: not compared")
    partial_text = f", {cache.partial} partly here and not compared" if cache.partial else ""
    state = "repaired" if cache.wrong else "all as they should be"
    show(
        f"cache: {cache.devices} devices, {size(cache.read_bytes)}, "
        f"{cache.chunks} chunks{partial_text}: {state}"
    )
