"""What gc keeps and what it removes, on images built for real in a directory store."""

import json
import os
from dataclasses import replace

import pytest

from cli import main as cli_main
from cli.gc_cmd import GraceInvalid, parse_grace
from cli.settings import Settings
from hotstart.core.digest import Digest
from hotstart.store import collect, media_types
from hotstart.store.blob_store import StoreUnavailable
from hotstart.store.collect import Collector, CollectorRunning
from hotstart.store.descriptor import Descriptor
from hotstart.store.leased import leased
from hotstart.store.leases import COLLECTOR, COLLECTOR_NS, LEASE_NS, LeaseDocument
from hotstart.store.reach import CollectionStopped
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from hotstart.store.trace import Trace, TraceSpan
from image_builder.build import build
from image_builder.options import BuildOptions
from tests.fakes.memory_store import memory_store
from tests.store import samples

DAY_NS = 24 * 3600 * 10**9


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "weights").write_bytes(os.urandom(3 << 20))
    (tree / "code").write_bytes(os.urandom(300_000))
    return tree


def age(store, tmp_path, seconds=3 * 86400):
    """Let everything that the store holds be older."""
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns - int(seconds * 1e9)))


def digests(store):
    return {digest for digest, _ in store.blobs.digests()}


def remove(store, name):
    reference = store.references.get(ReferenceName.parse(name))
    store.references.remove(reference.name, reference.version)


def test_nothing_that_has_a_name_is_removed(store, tree, tmp_path):
    build(str(tree), store, reference="app:v1")
    age(store, tmp_path)
    before = digests(store)
    found = Collector(store, grace_s=0).collect()
    assert found.removed.blobs == 0
    assert found.reachable.blobs == len(before)
    assert digests(store) == before


def test_what_has_lost_its_name_is_removed_and_what_is_shared_stays(store, tree, tmp_path):
    build(str(tree), store, reference="app:v1")
    (tree / "code").write_bytes(os.urandom(300_000))
    new = build(str(tree), store, reference="app:v2", options=BuildOptions(base="app:v1"))
    assert new.stats.borrowed_chunks
    remove(store, "app:v1")
    age(store, tmp_path)
    found = Collector(store).collect()
    assert found.removed.blobs == 3  # manifest, table and bootstrap; config and packs are shared
    reached = {blob.digest for blob in new.manifest.blobs()} | {new.descriptor.digest}
    assert digests(store) == reached
    remove(store, "app:v2")
    assert Collector(store).collect().removed.blobs == len(reached)
    assert digests(store) == set()


def test_what_is_younger_than_the_grace_is_kept(store, tree, tmp_path):
    build(str(tree), store, reference="app:v1")
    remove(store, "app:v1")
    before = digests(store)
    age(store, tmp_path, 3600)
    assert Collector(store, grace_s=7200).collect().young.blobs == len(before)
    assert digests(store) == before
    assert Collector(store, grace_s=1800).collect().removed.blobs == len(before)


def test_what_a_removed_name_has_left_is_kept_for_the_grace(store, tree, tmp_path, capsys):
    """Whoever still reads the image has that long, however old its packs are."""
    build(str(tree), store, reference="app:v1")
    before = digests(store)
    age(store, tmp_path)
    assert cli_main.run(["--store", store.url, "rm", "app:v1", "--image"], Settings()) == 0
    assert Collector(store).collect().young.blobs == len(before)
    assert digests(store) == before
    age(store, tmp_path)
    assert Collector(store).collect().removed.blobs == len(before)


def test_what_a_rebuilt_name_has_left_is_kept_for_the_grace(store, tree, tmp_path):
    build(str(tree), store, reference="app:v1")
    before = digests(store)
    age(store, tmp_path)
    (tree / "weights").write_bytes(os.urandom(1 << 20))
    build(str(tree), store, reference="app:v1")
    Collector(store).collect()
    assert before <= digests(store)


def test_a_snapshot_keeps_its_image_and_a_damaged_name_stops_the_collection(store, tmp_path):
    snapshot, image = samples.snapshot(), samples.image()
    for blob in (image.to_bytes(), snapshot.to_bytes(), b'{"os":"linux"}', b"garbage"):
        store.blobs.put(Digest.of(blob), blob)
    name = ReferenceName("snap")
    store.references.swap(name, snapshot.descriptor(), None)
    age(store, tmp_path)
    assert Collector(store, grace_s=0).collect().removed.blobs == 1
    assert store.blobs.has(image.descriptor().digest)
    document = tmp_path / "store/references/snap/_tags/latest"
    content = document.read_bytes()
    for damaged in (b"", content[:-2], content.replace(b"sha256:", b"sha512:")):
        document.write_bytes(damaged)
        before = digests(store)
        with pytest.raises(CollectionStopped, match="reference snap:latest"):
            Collector(store, grace_s=0).collect()
        assert digests(store) == before


def test_a_name_whose_manifest_is_gone_or_foreign_stops_the_collection(store):
    store.blobs.put(Digest.of(b"garbage"), b"garbage")
    foreign = Descriptor.of("application/x-other", b"garbage")
    reference = store.references.swap(ReferenceName("a"), foreign, None)
    with pytest.raises(CollectionStopped, match="'application/x-other' is not known here"):
        Collector(store, grace_s=0).collect()
    store.references.swap(reference.name, samples.image().descriptor(), reference.version)
    with pytest.raises(CollectionStopped, match="no blob"):
        Collector(store, grace_s=0).collect()
    assert store.blobs.has(Digest.of(b"garbage"))


def test_a_trace_goes_with_its_image(store, tree, tmp_path):
    image = build(str(tree), store, reference="app:v1").descriptor.digest
    trace = Trace(("a" * 64,), (TraceSpan(0, 0, 4, 1),)).encode()
    descriptor = Descriptor.of(media_types.TRACE, trace)
    store.blobs.put(descriptor.digest, trace)
    store.references.swap(ReferenceName.trace_of(image), descriptor, None)
    age(store, tmp_path)
    assert Collector(store).collect().removed.blobs == 0
    assert store.blobs.has(descriptor.digest)
    remove(store, "app:v1")
    found = Collector(store).collect()
    assert found.removed_traces == 1
    assert digests(store) == set()
    assert list(store.references.names()) == []


def test_what_a_writer_at_work_holds_is_kept_until_its_lease_is_dead(store, tree, tmp_path):
    base = build(str(tree), store, reference="app:v1")
    remove(store, "app:v1")
    held = digests(store)
    with leased(store, (base.descriptor.digest,)) as writer:
        writer.store.blobs.put(Digest.of(b"new"), b"new")
        found = Collector(store, grace_s=0).collect()
        assert (found.writers, found.leased.blobs) == (1, len(held) + 1)
        assert digests(store) == held | {Digest.of(b"new")}
        (entry,) = store.leases.entries()
        content = store.leases.read(entry.name)
    store.leases.write("writer-dead", content)
    lease = tmp_path / "store/leases/writer-dead"
    now = lease.stat().st_mtime_ns
    os.utime(lease, ns=(now, now - LEASE_NS + 60 * 10**9))
    assert Collector(store, grace_s=0).collect().writers == 1
    os.utime(lease, ns=(now, now - LEASE_NS))
    assert Collector(store, grace_s=0).collect().removed.blobs == len(held) + 1


def test_a_lease_that_cannot_be_read_stops_the_collection(store):
    store.blobs.put(Digest.of(b"garbage"), b"garbage")
    store.leases.write("writer-x", b"?")
    with pytest.raises(Exception, match="lease: not a JSON document"):
        Collector(store, grace_s=0).collect()
    assert store.blobs.has(Digest.of(b"garbage"))


def test_another_collector_is_a_conflict_until_it_is_dead(store, tmp_path):
    store.leases.write(f"{COLLECTOR}other", LeaseDocument("x:1").to_bytes())
    with pytest.raises(CollectorRunning):
        Collector(store).collect()
    other = tmp_path / f"store/leases/{COLLECTOR}other"
    now = other.stat().st_mtime_ns
    os.utime(other, ns=(now, now - COLLECTOR_NS))
    Collector(store).collect()


def test_a_long_collection_lets_writers_in_between_its_passes(store, monkeypatch):
    for number in range(50):
        store.blobs.put(Digest.of(b"%d" % number), b"%d" % number)
    times = iter(range(10**6))
    monkeypatch.setattr(collect, "_PASS_S", 10)
    passes = []
    write = store.leases.write

    def counted(name, content):
        passes.append(name)
        return write(name, content)

    object.__setattr__(store.leases, "write", counted)
    found = Collector(store, grace_s=0, removers=1, clock=lambda: float(next(times))).collect()
    assert found.removed.blobs == 50
    assert len(set(passes)) > 3
    assert store.leases.entries() == []


def test_a_collection_that_breaks_has_removed_garbage_only_and_leaves_no_lease(store, tree):
    build(str(tree), store, reference="app:v1")
    kept = digests(store)
    garbage = {Digest.of(b"%d" % number) for number in range(20)}
    for number in range(20):
        store.blobs.put(Digest.of(b"%d" % number), b"%d" % number)
    calls = iter(range(100))

    class Breaking:
        def __getattr__(self, name):
            return getattr(store.blobs, name)

        def remove(self, digest):
            if next(calls) == 7:
                raise StoreUnavailable(store.url, "gone away")
            store.blobs.remove(digest)

    broken = replace(store, blobs=Breaking())
    with pytest.raises(StoreUnavailable):
        Collector(broken, grace_s=0, removers=1).collect()
    assert kept < digests(store) < kept | garbage
    assert store.leases.entries() == []


def test_times_are_compared_with_the_stores_clock_only(monkeypatch):
    """A store whose clock is years away collects as any other."""
    now = [10**9]
    store = memory_store(lambda: now[0])
    store.blobs.put(Digest.of(b"garbage"), b"garbage")
    now[0] += DAY_NS - 1
    assert Collector(store).collect().removed.blobs == 0
    now[0] += 2
    assert Collector(store).collect().removed.blobs == 1


def test_the_command_tells_what_it_would_free_and_frees_it(store, tree, tmp_path, capsys):
    build(str(tree), store, reference="app:v1")
    held = digests(store)
    remove(store, "app:v1")
    call = ["--store", store.url, "gc"]
    assert cli_main.run([*call, "--grace", "0", "--dry-run", "--json"], Settings()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry_run"] is True
    assert document["gc"]["removed"]["blobs"] == len(held)
    assert digests(store) == held
    assert cli_main.run(call, Settings()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("freed 0 B in 0 blobs; in use: 0 B")
    assert f"kept for --grace 24h: 3.3 MiB in {len(held)} blobs" in err
    assert cli_main.run([*call, "--grace", "0"], Settings()) == 0
    assert capsys.readouterr().out.startswith("freed 3.3 MiB in")
    assert digests(store) == set()


def test_the_command_fails_with_the_codes_of_the_table(tmp_path, store, capsys):
    assert cli_main.run(["--store", str(tmp_path / "none"), "gc"], Settings()) == 101
    assert cli_main.run(["--store", store.url, "gc", "--grace", "soon"], Settings()) == 100
    store.leases.write(f"{COLLECTOR}other", b"")
    assert cli_main.run(["--store", store.url, "gc"], Settings()) == 102
    store.leases.remove(f"{COLLECTOR}other")
    store.references.swap(ReferenceName("a"), samples.image().descriptor(), None)
    assert cli_main.run(["--store", store.url, "gc"], Settings()) == 104


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("1.5m", 90), ("2h", 7200), ("7d", 604800)]
)
def test_a_grace_is_a_length_of_time(text, seconds):
    assert parse_grace(text) == seconds
    for wrong in ("", "-1", "1w", "1 h", "h", "nan"):
        with pytest.raises(GraceInvalid):
            parse_grace(wrong)
