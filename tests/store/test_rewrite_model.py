"""A collector that rewrites, interleaved with readers, writers and a removal; crashes included.

As in test_collect_model.py the programs are the real ones and only the store is a model. The pack
is mostly dead: the name ``few`` needs one chunk of it, which a reader must get at every instant.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.store import collect, leased, live_spans, reach, rewrite
from hotstart.store import relocating as relocating_blobs
from hotstart.store.collect import Collector, CollectorRunning
from hotstart.store.leased import Lease
from hotstart.store.leases import LEASE_NS
from hotstart.store.manifest import parse_manifest
from hotstart.store.publishing import current, move
from hotstart.store.references import ReferenceName, encode_reference
from hotstart.store.relocating import RelocatingBlobs
from hotstart.store.rewrite import Rewriter
from tests.fakes.memory_store import memory_store
from tests.store.interleavings import Inline, Run, explore, stall_anywhere
from tests.store.small_images import (
    Pack,
    content_of,
    image_of,
    name_it,
    read_manifest,
    read_name,
    remove_name,
)

PACK = Pack(tuple(range(8)), pages=1)
FEW, BASE, NEW, WHOLE = (image_of((PACK, numbers)) for numbers in ((1,), (1, 2), (2,), range(8)))
VERSION_OF_BASE = str(
    Digest.of(encode_reference(ReferenceName("base"), BASE.manifest.descriptor()))
)


def relocating(store):
    """What a process has that opens the store."""
    return replace(store, blobs=RelocatingBlobs(store.blobs, store.references))


def collector_of(store, kind=Collector):
    """Its clock goes as the store's: it stands still unless somebody stalls or has crashed."""
    run = store.blobs.run
    return kind(relocating(store), grace_s=0, removers=1, clock=lambda: run.now_ns / 1e9)


def run_collector(store):
    with suppress(CollectorRunning):
        collector_of(store).collect()


class StepwisePasses(Collector):
    """Steps of its own in passes after the first only: what it does between them nobody sees."""

    number = 0

    def _pass(self, *arguments, **options):
        self.number += 1
        with self._store.leases.run.at_once(free=self.number == 1):
            return super()._pass(*arguments, **options)


def run_passes(store):
    """A collector that has looked at everything and written the new pack before others begin."""
    with store.blobs.run.at_once():
        collector_of(store, StepwisePasses).collect()


def read_twice(store):
    """A mount: its manifest is known, its table is not; the second read remembers the first."""
    opened = relocating(store)
    for _ in range(2):
        assert read_manifest(opened, FEW.manifest) == content_of(FEW)


def borrow(store):
    """Publishes an image of a chunk that the base has and ``few`` has not."""
    opened = relocating(store)
    base = current(opened, ReferenceName("base"))
    if base is None:
        return
    with leased.leased(opened, (base.target.digest,)) as writer:
        parse_manifest(bytes(opened.blobs.read(base.target.digest)))
        publish(writer)


def build_again(store):
    """Puts the whole pack, which is there already, or was."""
    with leased.leased(relocating(store)) as writer:
        PACK.put(writer.store)
        publish(writer)


def publish(writer):
    for content in (NEW.table.content, NEW.manifest.to_bytes()):
        writer.store.blobs.put(Digest.of(content), content)
    needed = [blob for blob in NEW.manifest.blobs() if blob.size > 10]  # not the config
    move(writer, ReferenceName("new"), NEW.manifest.descriptor(), needed)


def remove_base(store):
    store.references.remove(ReferenceName("base"), VERSION_OF_BASE)


def mostly_dead(store):
    name_it(store, "few", FEW)


def with_base(store):
    name_it(store, "few", FEW)
    name_it(store, "base", BASE)


def rewritten_before(store):
    """The pack was rewritten, and most of what was kept is dead since."""
    name_it(store, "few", FEW)
    name_it(store, "more", image_of((PACK, (3, 4, 5, 6))))
    opened = relocating(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "LEAST_FREED_BYTES", 0)
        patch.setattr(rewrite, "LIVE_SHARE", 1)
        Collector(opened, grace_s=0, removers=1).collect()
    assert not store.blobs.has(PACK.digest)
    remove_name(store, "more")


@pytest.fixture
def new_run(monkeypatch):
    """Makes runs whose programs have no randomness, no threads at once, and no real waiting."""
    for module in (reach, live_spans, leased, collect):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Inline)
    monkeypatch.setattr(rewrite, "LEAST_FREED_BYTES", 0)

    def make(prepare, bodies):
        run = Run(prepare, bodies)
        monkeypatch.setattr(leased, "new_name", run.new_name)
        monkeypatch.setattr(collect, "new_name", run.new_name)
        monkeypatch.setattr(leased, "Lease", partial(Lease, sleep=run.sleep, clock=lambda: 0.0))
        return run

    return make


def check_readable(run, path):
    """Every name leads to all its bytes, now and after a collection long after."""
    store = relocating(run.model)
    for program in run.programs:
        if program.error is not None and not isinstance(program.error, HotstartError):
            raise RuntimeError(f"{program.name} after {path}") from program.error
    images = {"few": FEW, "base": BASE, "new": NEW}
    for _ in range(2):
        for name in store.references.names():
            if str(name) in (f"{text}:latest" for text in images):
                assert read_name(store, str(name)) == content_of(images[name.repository]), path
        run.now_ns += 3 * LEASE_NS
        Collector(store, grace_s=0, removers=1).collect()
    assert store.leases.entries() == [], path
    return store


def check(run, path):
    """... and it has freed what it can."""
    store = check_readable(run, path)
    names = {name.repository for name in store.references.names()}
    has_more = bool(names & {"base", "new"})
    assert store.blobs.has(PACK.digest) is False or has_more, path


def check_all_succeed(run, path):
    assert [str(p.error) for p in run.programs if p.error] == [], path
    check(run, path)


READ = {"reader": read_twice, "collector": run_passes}
AGAIN = {"writer": build_again, "collector": run_passes}
BORROW = {"writer": borrow, "remover": remove_base, "collector": run_passes}
SAMPLE = 80
"""Schedules, where all of them would take minutes."""
each_time = pytest.mark.parametrize("prepare", [mostly_dead, rewritten_before])


class Ends:
    """Checks each end, and counts those at which the pack has been rewritten since ``prepare``."""

    def __init__(self, check_end, prepare):
        self.check_end, self.rewritten = check_end, 0
        model = memory_store()
        prepare(model)
        self.before = self._relocation(model)

    def __call__(self, run, path):
        self.rewritten += self._relocation(run.model) != self.before
        self.check_end(run, path)

    def _relocation(self, model):
        found = current(model, ReferenceName.relocation_of(PACK.digest))
        return found and found.target.digest


@each_time
def test_a_reader_gets_its_bytes_at_every_instant(new_run, prepare):
    ends = Ends(check_all_succeed, prepare)
    assert explore(lambda: new_run(prepare, READ), ends) > 200
    assert ends.rewritten


@each_time
def test_a_collector_that_crashes_at_any_instant_leaves_everything_readable(new_run, prepare):
    ends = Ends(check, prepare)
    explore(lambda: new_run(prepare, {"collector": run_collector}), ends, crashes=1)
    assert ends.rewritten > 2


def test_a_reader_gets_its_bytes_though_a_collector_crashes_and_another_goes_on(new_run):
    bodies = {
        "reader": read_twice,
        "collector": run_collector,
        "collector two": run_collector,
    }
    ends = Ends(check, mostly_dead)
    explore(lambda: new_run(mostly_dead, bodies), ends, crashes=1, at_most=SAMPLE)
    assert ends.rewritten


@each_time
def test_a_writer_of_the_pack_itself_keeps_it(new_run, prepare):
    ends = Ends(check_all_succeed, prepare)
    explore(lambda: new_run(prepare, AGAIN), ends, at_most=SAMPLE)
    assert ends.rewritten


@each_time
def test_a_collector_that_is_taken_for_dead_meanwhile_removes_nothing_under_a_writer(
    new_run, prepare
):
    """One answer of the store takes longer than others wait; then the collector goes on."""
    ends = Ends(check, prepare)
    assert stall_anywhere(lambda: new_run(prepare, AGAIN), ends) > 10
    assert ends.rewritten


def test_what_is_borrowed_of_a_base_is_kept_though_its_name_is_removed(new_run):
    ends = Ends(check, with_base)
    explore(lambda: new_run(with_base, BORROW), ends, at_most=SAMPLE)
    assert ends.rewritten


def remove_first(self, done, standing, publish=Rewriter.publish):
    """Publishes in the wrong order."""
    self._store.blobs.remove(done.plan.old.digest)
    return publish(self, done, standing)


@pytest.mark.parametrize(
    ("where", "word", "fault", "bodies"),
    [
        (Rewriter, "publish", remove_first, READ),
        (Rewriter, "_loses_nothing", lambda *_: True, AGAIN),
        (RelocatingBlobs, "has", lambda self, digest: True, AGAIN),
        (relocating_blobs, "_LOOKS", 0, READ),
        (Lease, "_wait", lambda self: None, dict(reversed(AGAIN.items()))),
    ],
)
def test_the_model_finds_a_step_that_is_left_out(new_run, monkeypatch, where, word, fault, bodies):
    monkeypatch.setattr(where, word, fault)
    with pytest.raises((AssertionError, RuntimeError, HotstartError)):
        explore(lambda: new_run(mostly_dead, bodies), check_all_succeed, at_most=SAMPLE)
