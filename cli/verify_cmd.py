"""``hotstart verify``: reads every object that a reference reaches. Needs no agent."""

from __future__ import annotations

from functools import partial

import click

from cli.command import HotstartCommand
from cli.keys import trusted_keys
from cli.output import progress, say, show, show_json, size
from cli.settings import Settings
from cli.verification import VerificationFailed, Verifier
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store


@click.command("verify", cls=HotstartCommand)
@click.argument("reference")
@click.option("--trust-unsigned", is_flag=True, help="Do not look at a snapshot's signature.")
@click.pass_obj
def verify(settings: Settings, reference: str, trust_unsigned: bool) -> None:
    """Read every object that REFERENCE reaches and compare all digests and signatures."""
    store = open_store(settings.store_url, create=False)
    name = ReferenceName.parse(reference)
    trusted = None if trust_unsigned else partial(trusted_keys, settings.root)
    with progress() as sink:
        result = Verifier(store, trusted, sink).check(name)
    if result.problems:
        for problem in result.problems[1:]:  # the first one is in the error's own sentence
            say(f"hotstart: {name}: {problem}")
        raise VerificationFailed(name, result.problems)
    if settings.json:
        show_json({"reference": str(name), "verified": result})
        return
    show(
        f"{name}: {result.objects} objects, {size(result.read_bytes)}, "
        f"{result.chunks} chunks: all as they should be"
    )
