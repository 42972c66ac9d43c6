"""``hotstart rm``: removes a reference from the store, or an ended container.

A name that is a container of this root means the container; everything else is a reference.
``--container`` and ``--image`` decide where both exist.
"""

from __future__ import annotations

from contextlib import suppress

import click

from cli.agents import open_known_agent
from cli.command import HotstartCommand
from cli.output import say, show, show_json
from cli.settings import Settings
from hotstart.core.errors import Conflict, NotFound, UserError
from hotstart.store.publishing import retire
from hotstart.store.references import (
    RELOCATION_PREFIX,
    SNAPSHOT_PREFIX,
    ReferenceName,
    ReferenceNameInvalid,
    ReferenceNotFound,
    ReferenceUnreadable,
)
from hotstart.store.stack import open_store


@click.command("rm", cls=HotstartCommand)
@click.argument("name")
@click.option("--container", "what", flag_value="container", help="NAME is a container.")
@click.option("--image", "what", flag_value="image", help="NAME is a reference of the store.")
@click.pass_obj
def remove(settings: Settings, name: str, what: str | None) -> None:
    """Remove a reference from the store, or an ended container.

    Blobs stay until `hotstart gc` finds that nothing else needs them.
    """
    kind = what or _kind(settings, name)
    if kind == "container":
        with open_known_agent(settings, name) as client:
            client.remove(name)
    else:
        _remove_reference(settings, name, anything=what is None)
    if settings.json:
        show_json({"removed": name, "kind": kind})
    else:
        show(name)


def _remove_reference(settings: Settings, name: str, *, anything: bool) -> None:
    """Remove a reference, and what lets a run find the stateless snapshot that it named.

    One that cannot be read is removed too, unless somebody has replaced it meanwhile.
    ``anything``: the caller did not say that it is a reference, so it might have been a container.
    """
    store = open_store(settings.store_url, create=False)
    parsed = ReferenceName.parse(name)
    if parsed.repository.startswith(RELOCATION_PREFIX):
        raise UserError(
            f"{name} tells where a rewritten pack lies, and images that need it would be lost",
            "remove those images; hotstart gc then removes it with the pack",
        )
    try:
        reference = store.references.get(parsed)
    except ReferenceUnreadable as err:
        store.references.remove(err.name, err.version)
        say(f"hotstart: {err}; it is removed, and nobody knows what it named")
        return
    except ReferenceNotFound as err:
        if not anything:
            raise
        raise NotFound(
            f"{name} is neither a container of {settings.root} nor a reference of {store.url}",
            "see hotstart ps and hotstart images",
        ) from err
    retire(store, reference.target)
    store.references.remove(reference.name, reference.version)
    for other in store.references.names():
        if other.repository.startswith(SNAPSHOT_PREFIX):
            with suppress(NotFound, ReferenceUnreadable):
                hidden = store.references.get(other)
                if hidden.target.digest == reference.target.digest:
                    store.references.remove(other, hidden.version)


def _kind(settings: Settings, name: str) -> str:
    """Decide what ``name`` is. Raises Conflict when it is both."""
    if not _is_container(settings, name):
        return "image"
    if _is_reference(settings, name):
        raise Conflict(
            f"{name} is a container and a reference", "say which: --container or --image"
        )
    return "container"


def _is_reference(settings: Settings, name: str) -> bool:
    """Tell whether the store has it; not every name of a container could be a reference's."""
    try:
        store = open_store(settings.store_url, create=False)
        store.references.get(ReferenceName.parse(name))
    except (NotFound, ReferenceNameInvalid):
        return False
    except ReferenceUnreadable:
        pass  # it is there all the same
    return True


def _is_container(settings: Settings, name: str) -> bool:
    try:
        return "/" not in name and (settings.root / "containers" / name).is_dir()
    except PermissionError:  # who may not look may not remove one either
        return False
