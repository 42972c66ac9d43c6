"""Every interleaving of writers, a removal and collectors in a small case, crashes included.

The programs are the real ones; only the store is a model (tests/store/interleavings.py). The grace
is zero: leases alone must keep things. After each schedule every name must lead to all that it
needs, and a collection long after must leave nothing else.
"""

from contextlib import suppress
from functools import partial

import pytest

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.store import collect, leased, media_types, reach
from hotstart.store.collect import Collector, CollectorRunning
from hotstart.store.descriptor import Descriptor
from hotstart.store.layers import bootstrap_descriptor
from hotstart.store.leased import Lease
from hotstart.store.leases import LEASE_NS
from hotstart.store.manifest import ImageManifest, parse_manifest
from hotstart.store.publishing import current, move
from hotstart.store.references import ReferenceName, encode_reference
from hotstart.store.verdict import Judge
from tests.store.interleavings import Inline, Run, explore, stall_anywhere

X = b"what is borrowed"
BASE, NEW = ReferenceName("base"), ReferenceName("new")


def image(note):
    """A manifest that needs nothing but X."""
    return ImageManifest(
        Descriptor.of(media_types.OCI_CONFIG, X), bootstrap_descriptor(X, X), (), {"note": note}
    )


def build_again(store):
    """Writes X, which is there already, and an image of it."""
    with leased.leased(store) as writer:
        writer.store.blobs.put(Digest.of(X), X)
        publish(writer)


def borrow(store):
    """Borrows X from the base, as a build with a base or a capture does."""
    base = current(store, BASE)
    if base is None:
        return
    with leased.leased(store, (base.target.digest,)) as writer:
        parse_manifest(bytes(store.blobs.read(base.target.digest)))
        writer.confirm([Descriptor.of(media_types.PACK, X)])
        publish(writer)


def only_put(store):
    """A writer that is not done yet."""
    with leased.leased(store) as writer:
        writer.store.blobs.put(Digest.of(X), X)
        assert writer.store.blobs.has(Digest.of(X))


def publish(writer):
    manifest = image("new")
    writer.store.blobs.put(manifest.descriptor().digest, manifest.to_bytes())
    move(writer, NEW, manifest.descriptor(), manifest.blobs())


def remove_base(store):
    """What ``hotstart rm`` does last; the grace, which it renews before, is zero here."""
    store.references.remove(BASE, VERSION_OF_BASE)


def run_collector(store):
    with suppress(CollectorRunning):
        run = store.blobs.run
        clock = lambda: run.now_ns / 1e9  # noqa: E731
        Collector(store, grace_s=0, removers=1, clock=clock).collect()


def old_garbage(store):
    store.blobs.put(Digest.of(X), X)


def old_base(store):
    store.blobs.put(Digest.of(X), X)
    base = image("base")
    store.blobs.put(base.descriptor().digest, base.to_bytes())
    store.references.swap(BASE, base.descriptor(), None)


VERSION_OF_BASE = str(Digest.of(encode_reference(BASE, image("base").descriptor())))


@pytest.fixture
def new_run(monkeypatch):
    """Makes runs whose programs have no randomness, no threads at once, and no real waiting."""
    for module in (reach, leased, collect):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Inline)

    def make(prepare, bodies):
        run = Run(prepare, bodies)
        monkeypatch.setattr(leased, "new_name", run.new_name)
        monkeypatch.setattr(collect, "new_name", run.new_name)
        monkeypatch.setattr(leased, "Lease", partial(Lease, sleep=run.sleep, clock=lambda: 0.0))
        return run

    return make


def broken(store):
    """Names whose blobs are not all there."""
    found = []
    for name in store.references.names():
        try:
            target = store.references.get(name).target
            manifest = parse_manifest(bytes(store.blobs.read(target.digest)))
            found += [name for blob in manifest.blobs() if not store.blobs.has(blob.digest)]
        except HotstartError:
            found.append(name)
    return found


def check(run, path):
    store = run.model
    for program in run.programs:
        if program.error is not None and not isinstance(program.error, HotstartError):
            raise RuntimeError(f"{program.name} after {path}") from program.error
    assert broken(store) == [], path
    run.now_ns += 3 * LEASE_NS
    Collector(store, grace_s=0, removers=1).collect()
    assert broken(store) == [], path
    is_used = any(True for _ in store.references.names())
    assert store.blobs.has(Digest.of(X)) == is_used, path
    assert store.leases.entries() == [], path


def check_published(run, path):
    """Without crashes the writer also succeeds."""
    assert [str(p.error) for p in run.programs if p.error] == [], path
    assert current(run.model, NEW) is not None, path
    check(run, path)


SMALL = {"writer": build_again, "collector": run_collector}
BORROW = {"writer": borrow, "collector": run_collector, "remover": remove_base}


def test_what_a_writer_finds_there_stays_in_every_interleaving(new_run):
    states = explore(lambda: new_run(old_garbage, SMALL), check_published)
    assert states > 300


@pytest.mark.parametrize("prepare", [old_garbage, old_base])
def test_a_crash_at_any_instant_breaks_no_name(new_run, prepare):
    assert explore(lambda: new_run(prepare, SMALL), check, crashes=1) > 1000


@pytest.mark.parametrize("prepare", [old_garbage, old_base])
def test_a_collector_that_is_taken_for_dead_meanwhile_removes_nothing_more(new_run, prepare):
    """One answer of the store takes longer than others wait; then the collector goes on."""
    assert stall_anywhere(lambda: new_run(prepare, SMALL), check) > 5


def test_what_is_borrowed_stays_though_its_name_is_removed(new_run):
    assert explore(lambda: new_run(old_base, BORROW), check) > 1000


def test_two_collectors_at_once_are_as_safe_as_one(new_run):
    """A sample: all of its 36,698 states, which were looked at once, take half a minute."""
    bodies = {"writer": only_put, "collector": run_collector, "collector two": run_collector}
    assert explore(lambda: new_run(old_garbage, bodies), check, at_most=800) > 1500


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("_wait", lambda self: None),
        ("claim", lambda self, digest: None),
    ],
)
def test_the_model_finds_a_writer_that_leaves_a_step_out(new_run, monkeypatch, where, fault):
    monkeypatch.setattr(Lease, where, fault)
    with pytest.raises(AssertionError, match=r"ReferenceName|was removed while"):
        explore(lambda: new_run(old_garbage, SMALL), check_published)


def test_the_model_finds_a_collector_that_reads_references_first_and_only_then_leases(
    new_run, monkeypatch
):
    judge, references = Judge.of, reach.Reach.references

    def wrong(self, blobs, now_ns):
        early = references(self._reach)
        monkeypatch.setattr(reach.Reach, "references", lambda _self: early)
        try:
            return judge(self, blobs, now_ns)
        finally:
            monkeypatch.setattr(reach.Reach, "references", references)

    monkeypatch.setattr(Judge, "of", wrong)
    with pytest.raises(AssertionError, match=r"ReferenceName|was removed while"):
        explore(lambda: new_run(old_garbage, SMALL), check_published)
