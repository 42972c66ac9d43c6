"""Retry, verify and limit: each passes the contract, and does its one thing."""

import threading

import pytest

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import Span
from hotstart.store.blob_store import BlobNotFound, StoreBusy, StoreDenied, StoreUnavailable
from hotstart.store.descriptor import Descriptor
from hotstart.store.limiting import LimitingBlobs
from hotstart.store.references import ReferenceChanged, ReferenceName, ReferenceNotFound
from hotstart.store.retrying import RetryingBlobs, RetryingReferences, RetryPolicy
from hotstart.store.verifying import VerifyingBlobs
from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.reference_store import ReferenceStoreContract
from tests.fakes.faulty_store import FaultyBlobs, FaultyReferences
from tests.fakes.memory_store import MemoryBlobs, MemoryReferences

CONTENT = b"some bytes"
DIGEST = Digest.of(CONTENT)
NAME = ReferenceName.parse("app")
TARGET = Descriptor.of("a/b", b"target")


def policy(waits=None, attempts=5):
    """A policy that notes its waits instead of sleeping, and always waits longest."""
    noted = [] if waits is None else waits
    return RetryPolicy(attempts=attempts, sleep=noted.append, uniform=lambda low, high: high)


def stored():
    blobs = MemoryBlobs()
    blobs.put(DIGEST, CONTENT)
    return blobs


class TestStackedBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self):
        self.inner = MemoryBlobs()
        limited = LimitingBlobs(self.inner, in_flight=3)
        return VerifyingBlobs(RetryingBlobs(limited, policy()))

    def damage(self, blobs, digest, content):
        self.inner.contents[digest] = content


class TestStackedReferences(ReferenceStoreContract):
    @pytest.fixture
    def references(self):
        return RetryingReferences(MemoryReferences(), policy())


def test_unavailable_reads_are_repeated_with_growing_waits():
    waits = []
    faulty = FaultyBlobs(stored(), "timeout short timeout ok")
    assert RetryingBlobs(faulty, policy(waits)).read(DIGEST, Span(0, 4)) == b"some"
    assert faulty.calls == 4
    assert waits == sorted(waits)
    assert len(waits) == 3


def test_waits_never_exceed_the_longest_delay():
    waits = []
    faulty = FaultyBlobs(stored(), "timeout " * 11)
    RetryingBlobs(faulty, policy(waits, attempts=12)).read(DIGEST)
    assert max(waits) == 3.0


def test_the_last_failure_is_raised_after_all_attempts():
    faulty = FaultyBlobs(stored(), "timeout " * 9)
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        RetryingBlobs(faulty, policy()).read(DIGEST)
    assert faulty.calls == 5


@pytest.mark.parametrize(("script", "error"), [("denied", StoreDenied), ("ok", BlobNotFound)])
def test_what_repeating_cannot_help_is_raised_at_once(script, error):
    faulty = FaultyBlobs(MemoryBlobs(), script)
    with pytest.raises(error):
        RetryingBlobs(faulty, policy()).read(DIGEST)
    assert faulty.calls == 1


def test_wrong_bytes_are_read_once_more_and_refused_if_they_are_wrong_again():
    faulty = FaultyBlobs(stored(), "corrupt corrupt ok")
    with pytest.raises(DigestMismatch):
        VerifyingBlobs(RetryingBlobs(faulty, policy())).read(DIGEST)
    assert faulty.calls == 2


def test_a_byte_flipped_on_its_way_costs_one_more_read():
    faulty = FaultyBlobs(stored(), "corrupt ok")
    assert VerifyingBlobs(faulty).read(DIGEST) == CONTENT
    assert faulty.calls == 2


def test_a_store_that_takes_long_to_fail_is_not_asked_beyond_the_total():
    now = [0.0]

    class Slow(MemoryBlobs):
        calls = 0

        def read(self, digest, span=None):
            self.calls += 1
            now[0] += 10.0
            raise StoreUnavailable("memory", "no answer in time")

    slow = Slow()
    patient = RetryPolicy(attempts=9, sleep=lambda delay_s: None, clock=lambda: now[0])
    with pytest.raises(StoreUnavailable):
        RetryingBlobs(slow, patient).read(DIGEST)
    assert slow.calls == 3


def test_a_busy_store_is_left_alone_for_longer():
    waits = []
    with pytest.raises(StoreBusy):
        policy(waits, attempts=2).call(_busy)
    assert waits[0] > 1.0


def _busy():
    raise StoreBusy("memory", "slow down")


def test_a_put_whose_answer_was_lost_is_repeated_safely():
    faulty = FaultyBlobs(MemoryBlobs(), "lost ok")
    RetryingBlobs(faulty, policy()).put(DIGEST, CONTENT)
    assert faulty.inner.read(DIGEST) == CONTENT


def test_a_removal_whose_answer_was_lost_is_a_removal():
    faulty = FaultyBlobs(stored(), "lost ok")
    RetryingBlobs(faulty, policy()).remove(DIGEST)
    assert not faulty.inner.has(DIGEST)


def test_every_blob_operation_is_repeated():
    faulty = FaultyBlobs(stored(), "timeout ok timeout ok timeout ok")
    blobs = RetryingBlobs(faulty, policy())
    assert blobs.size(DIGEST) == len(CONTENT)
    assert blobs.has(DIGEST)
    assert list(blobs.digests()) == [(DIGEST, len(CONTENT))]


def test_a_swap_whose_answer_was_lost_is_recognised_as_done():
    faulty = FaultyReferences(MemoryReferences(), "lost ok")
    made = RetryingReferences(faulty, policy()).swap(NAME, TARGET, None)
    assert made == faulty.inner.get(NAME)


def test_a_swap_lost_before_it_was_done_still_conflicts():
    references = MemoryReferences()
    references.swap(NAME, Descriptor.of("a/b", b"another"), None)
    faulty = FaultyReferences(references, "timeout ok")
    with pytest.raises(ReferenceChanged):
        RetryingReferences(faulty, policy()).swap(NAME, TARGET, None)


def test_a_first_conflict_is_never_taken_for_success():
    references = MemoryReferences()
    references.swap(NAME, TARGET, None)
    with pytest.raises(ReferenceChanged):
        RetryingReferences(FaultyReferences(references, "ok"), policy()).swap(NAME, TARGET, None)


def test_a_removed_reference_whose_answer_was_lost_is_removed():
    references = MemoryReferences()
    made = references.swap(NAME, TARGET, None)
    RetryingReferences(FaultyReferences(references, "lost ok"), policy()).remove(NAME, made.version)
    with pytest.raises(ReferenceNotFound):
        references.get(NAME)


def test_every_reference_operation_is_repeated():
    references = MemoryReferences()
    references.swap(NAME, TARGET, None)
    retrying = RetryingReferences(FaultyReferences(references, "timeout ok timeout ok"), policy())
    assert retrying.get(NAME).target == TARGET
    assert list(retrying.names()) == [NAME]


class _Slow(MemoryBlobs):
    """Counts how many reads are in flight, and holds them until ``most`` have come."""

    def __init__(self, most):
        super().__init__()
        self.lock = threading.Lock()
        self.now = self.highest = 0
        self.met = threading.Barrier(most)

    def read(self, digest, span=None):
        with self.lock:
            self.now += 1
            self.highest = max(self.highest, self.now)
        self.met.wait(timeout=30)
        with self.lock:
            self.now -= 1
        return super().read(digest, span)


def test_no_more_calls_than_the_limit_are_in_flight():
    slow = _Slow(most=3)
    slow.put(DIGEST, CONTENT)
    limited = LimitingBlobs(slow, in_flight=3)
    threads = [threading.Thread(target=limited.read, args=(DIGEST,)) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert slow.highest == 3
