"""Leases on every kind of store, and what a writer's lease does when things go wrong."""

import pytest

from hotstart.core.digest import Digest
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.leased import Collected, Lease, LeaseLost, leased
from hotstart.store.leases import (
    COLLECTOR,
    LEASE_NS,
    LeaseDocument,
    LeaseInvalid,
    live,
    wait_for_collectors,
)
from hotstart.store.publishing import current, move
from hotstart.store.references import ReferenceName
from hotstart.store.retrying import RetryingLeases, RetryPolicy
from hotstart.store.stack import open_store
from tests.contracts.lease_objects import LeaseObjectsContract
from tests.fakes.memory_store import memory_store
from tests.store import samples

NAME = ReferenceName("app")


class TestMemoryLeases(LeaseObjectsContract):
    @pytest.fixture
    def store(self):
        return memory_store()


class TestDirectoryLeases(LeaseObjectsContract):
    @pytest.fixture
    def store(self, tmp_path):
        return open_store(str(tmp_path))


def documents(store):
    return [LeaseDocument.parse(store.leases.read(entry.name)) for entry in store.leases.entries()]


def test_what_is_put_is_named_while_the_writer_works_and_not_longer():
    store = memory_store()
    base = Digest.of(b"base")
    with leased(store, (base,)) as writer:
        assert [lease.manifests for lease in documents(store)] == [(base,)]
        writer.store.blobs.put(Digest.of(b"one"), b"one")
        writer.store.blobs.put(Digest.of(b"two"), b"two", is_checked=True)
        (lease,) = documents(store)
        assert set(lease.blobs) == {Digest.of(b"one"), Digest.of(b"two")}
    assert store.leases.entries() == []


def test_a_blob_that_vanishes_before_it_is_claimed_is_put_again():
    store = memory_store()
    write = store.leases.write

    def collected_meanwhile(name, content):
        store.blobs.contents.pop(Digest.of(b"one"), None)
        store.leases.write = write
        return write(name, content)

    with leased(store) as writer:
        store.leases.write = collected_meanwhile
        writer.store.blobs.put(Digest.of(b"one"), b"one")
        assert store.blobs.has(Digest.of(b"one"))


def test_a_writer_waits_for_collectors_that_were_there_before_it_and_for_no_other():
    store = memory_store()
    store.leases.write(f"{COLLECTOR}before", b"")
    waits = []

    def sleep(delay_s):
        waits.append(delay_s)
        store.leases.write(f"{COLLECTOR}later", b"")
        if len(waits) == 3:
            store.leases.remove(f"{COLLECTOR}before")

    wait_for_collectors(store.leases, lambda: store.leases.write("writer-1", b""), sleep)
    assert len(waits) == 3


def test_a_dead_collector_is_waited_for_until_its_time_has_passed():
    store = memory_store()
    store.leases.write(f"{COLLECTOR}dead", b"")
    looks = []

    def renew():
        looks.append(store.leases.write("writer-1", b""))
        return looks[-1]

    wait_for_collectors(store.leases, renew, lambda _delay_s: None)
    assert 55 <= len(looks) <= 61  # the clock of this store ticks a second at each write


def test_a_lease_that_could_not_be_renewed_in_time_says_so_and_publishes_nothing():
    store = memory_store()
    now = [0.0]
    lease = Lease(store.leases, clock=lambda: now[0])
    lease.begin()
    now[0] = LEASE_NS / 1e9 / 2 + 1
    with pytest.raises(LeaseLost, match="begin again"):
        lease.claim(Digest.of(b"x"))
    with pytest.raises(LeaseLost):
        lease.renew()


def test_what_is_gone_when_publishing_puts_the_reference_back():
    store = memory_store()
    old, new = (Descriptor.of(media_types.OCI_MANIFEST, text) for text in (b"old", b"new"))
    needed = Descriptor.of(media_types.PACK, b"pack")
    before = store.references.swap(NAME, old, None)
    store.blobs.put(new.digest, b"new")
    swap = store.references.swap
    store.blobs.put(needed.digest, b"pack")

    def swap_and_lose(*arguments):
        store.blobs.contents.pop(needed.digest, None)
        return swap(*arguments)

    store.references.swap = swap_and_lose
    with leased(store) as writer, pytest.raises(Collected, match=needed.digest.hex):
        move(writer, NAME, new, [needed])
    assert store.references.get(NAME).target == old
    store.references.remove(NAME, before.version)
    with leased(store) as writer, pytest.raises(Collected):
        move(writer, NAME, new, [needed])
    assert current(store, NAME) is None


def test_what_a_reference_leaves_counts_as_new():
    store = memory_store()
    old, new = (Descriptor.of(media_types.OCI_MANIFEST, text) for text in (b"old", b"new"))
    for content in (b"old", b"new"):
        store.blobs.put(Digest.of(content), content)
    first = store.blobs.times[old.digest]
    store.references.swap(NAME, old, None)
    with leased(store) as writer:
        move(writer, NAME, new, [])
    assert store.blobs.times[old.digest] > first


def test_leases_are_asked_again_while_the_store_is_away():
    store = memory_store()
    inner = store.leases
    answers = iter([True, False, True, False, True, False, True, False])

    class Flaky:
        url = inner.url

        def __getattr__(self, name):
            def call(*arguments):
                if next(answers):
                    from hotstart.store.blob_store import StoreUnavailable

                    raise StoreUnavailable(inner.url, "away")
                return getattr(inner, name)(*arguments)

            return call

    leases = RetryingLeases(Flaky(), RetryPolicy(attempts=2, sleep=lambda _delay_s: None))
    written = leases.write("writer-1", b"x")
    assert leases.read("writer-1") == b"x"
    assert [entry.modified_ns for entry in leases.entries()] == [written]
    leases.remove("writer-1")
    assert inner.entries() == []


def test_age_decides_which_objects_still_count():
    store = memory_store()
    store.leases.write("writer-old", b"")
    now = store.leases.write("writer-new", b"") + LEASE_NS - 10**9
    assert [entry.name for entry in live(store.leases.entries(), "writer-", now)] == ["writer-new"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        samples.lease().to_bytes().replace(b"sha256:0", b"sha256:F"),
        samples.lease().to_bytes()[:-1],
        samples.lease().to_bytes().replace(b'"blobs"', b'"other"'),
    ],
)
def test_damaged_leases_are_refused(content):
    with pytest.raises(LeaseInvalid):
        LeaseDocument.parse(content)


def test_a_lease_of_a_later_version_is_refused_by_name():
    content = samples.lease().to_bytes().replace(b'"version":1', b'"version":2')
    with pytest.raises(FormatVersionUnknown, match="lease: version 2"):
        LeaseDocument.parse(content)
