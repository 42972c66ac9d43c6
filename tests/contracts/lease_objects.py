"""What every LeaseObjects promises, and the times of blobs. Derive with a fixture ``store``."""

import pytest

from hotstart.core.digest import Digest

CONTENT = b"content"


class LeaseObjectsContract:
    """Each test gets an empty store as ``store``."""

    def test_what_is_written_is_read_back_and_listed(self, store):
        first = store.leases.write("writer-1", b"one")
        assert store.leases.read("writer-1") == b"one"
        (entry,) = store.leases.entries()
        assert (entry.name, entry.modified_ns) == ("writer-1", first)

    def test_a_later_write_replaces_and_is_not_older(self, store):
        first = store.leases.write("writer-1", b"one")
        second = store.leases.write("writer-1", b"two, and longer")
        assert second >= first
        assert store.leases.read("writer-1") == b"two, and longer"
        assert [entry.modified_ns for entry in store.leases.entries()] == [second]

    def test_an_absent_one_is_none_and_removed_without_an_error(self, store):
        assert store.leases.entries() == []
        assert store.leases.read("writer-1") is None
        store.leases.remove("writer-1")
        store.leases.write("writer-1", b"one")
        store.leases.remove("writer-1")
        assert store.leases.entries() == []

    def test_leases_are_neither_blobs_nor_references(self, store):
        store.leases.write("writer-1", b"one")
        assert list(store.blobs.digests()) == []
        assert list(store.references.names()) == []

    def test_a_blob_and_a_lease_go_by_one_clock(self, store):
        before = store.leases.write("clock", b"")
        store.blobs.put(Digest.of(CONTENT), CONTENT)
        after = store.leases.write("clock", b"")
        (entry,) = store.blobs.entries()
        assert (entry.digest, entry.size) == (Digest.of(CONTENT), len(CONTENT))
        assert before <= entry.modified_ns <= after

    def test_putting_a_small_blob_again_renews_its_time(self, store):
        store.blobs.put(Digest.of(CONTENT), CONTENT)
        (first,) = store.blobs.entries()
        for _ in range(1000):  # a bucket's times are whole seconds
            store.blobs.put(Digest.of(CONTENT), CONTENT)
            (entry,) = store.blobs.entries()
            if entry.modified_ns > first.modified_ns:
                return
        pytest.fail("the time of the blob stays")
