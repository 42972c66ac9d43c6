"""What every BlobStore promises. A test class derives from this and has a fixture ``blobs``,
and ``damage(blobs, digest, content)``, which puts other bytes in a blob's place as others would.
"""

import threading

import pytest

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.span import Span
from hotstart.store.blob_store import SMALL_BLOB, BlobNotFound, SpanOutside

CONTENT = bytes(range(256)) * 40
DIGEST = Digest.of(CONTENT)


class BlobStoreContract:
    """Each test gets an empty store as ``blobs``."""

    def test_put_is_read_back_whole(self, blobs):
        blobs.put(DIGEST, CONTENT)
        assert bytes(blobs.read(DIGEST)) == CONTENT
        assert blobs.size(DIGEST) == len(CONTENT)
        assert blobs.has(DIGEST)

    def test_a_span_is_exactly_its_bytes(self, blobs):
        blobs.put(DIGEST, CONTENT)
        for offset, length in ((0, 1), (0, len(CONTENT)), (100, 5000), (len(CONTENT) - 1, 1)):
            assert bytes(blobs.read(DIGEST, Span(offset, length))) == CONTENT[offset:][:length]

    def test_an_empty_span_within_the_blob_is_empty(self, blobs):
        blobs.put(DIGEST, CONTENT)
        assert bytes(blobs.read(DIGEST, Span(len(CONTENT), 0))) == b""

    @pytest.mark.parametrize(("offset", "length"), [(10230, 11), (10240, 1), (1 << 40, 1)])
    def test_a_span_beyond_the_end_is_refused(self, blobs, offset, length):
        blobs.put(DIGEST, CONTENT)
        with pytest.raises(SpanOutside) as caught:
            blobs.read(DIGEST, Span(offset, length))
        assert caught.value.span == Span(offset, length)

    def test_an_empty_blob_is_a_blob(self, blobs):
        blobs.put(Digest.of(b""), b"")
        assert bytes(blobs.read(Digest.of(b""))) == b""
        assert blobs.size(Digest.of(b"")) == 0

    def test_put_takes_any_buffer(self, blobs):
        for number, kind in enumerate((bytes, bytearray, memoryview)):
            content = kind(b"%d" % number)
            blobs.put(Digest.of(content), content)
            assert bytes(blobs.read(Digest.of(content))) == bytes(content)

    def test_put_of_checked_bytes_stores_them(self, blobs):
        for number, kind in enumerate((bytes, bytearray, memoryview)):
            content = kind(b"%d" % number * 5000)
            blobs.put(Digest.of(content), content, is_checked=True)
            assert bytes(blobs.read(Digest.of(content))) == bytes(content)

    def test_put_of_what_is_there_is_no_error(self, blobs):
        blobs.put(DIGEST, CONTENT)
        blobs.put(DIGEST, CONTENT)
        assert list(blobs.digests()) == [(DIGEST, len(CONTENT))]

    @pytest.mark.parametrize(
        "size", [10240, SMALL_BLOB + 1, 17 << 20], ids=["small", "large", "parts"]
    )
    @pytest.mark.parametrize("cut", [0, 1], ids=["flipped", "shorter"])
    def test_put_replaces_a_damaged_blob(self, blobs, size, cut):
        content = bytes(size)
        digest = Digest.of(content)
        blobs.put(digest, content)
        self.damage(blobs, digest, content[cut:-1] + b"x")
        blobs.put(digest, content)
        assert bytes(blobs.read(digest)) == content

    def test_put_refuses_bytes_that_the_digest_does_not_name(self, blobs):
        with pytest.raises(DigestMismatch):
            blobs.put(DIGEST, CONTENT[:-1])
        assert not blobs.has(DIGEST)
        assert list(blobs.digests()) == []

    def test_absent_blobs_are_named_in_the_error(self, blobs):
        for call in (blobs.read, blobs.size, blobs.remove, lambda d: blobs.read(d, Span(0, 1))):
            with pytest.raises(BlobNotFound, match=DIGEST.hex):
                call(DIGEST)
        assert not blobs.has(DIGEST)

    def test_a_removed_blob_is_gone_and_can_come_back(self, blobs):
        blobs.put(DIGEST, CONTENT)
        blobs.remove(DIGEST)
        assert not blobs.has(DIGEST)
        blobs.put(DIGEST, CONTENT)
        assert bytes(blobs.read(DIGEST)) == CONTENT

    def test_digests_lists_every_blob_with_its_size(self, blobs):
        expected = {}
        for number in range(5):
            content = b"x" * number
            blobs.put(Digest.of(content), content)
            expected[Digest.of(content)] = number
        assert dict(blobs.digests()) == expected

    def test_threads_that_put_one_blob_all_succeed(self, blobs):
        errors = []

        def put():
            try:
                blobs.put(DIGEST, CONTENT)
                assert bytes(blobs.read(DIGEST)) == CONTENT
            except Exception as err:
                errors.append(err)

        threads = [threading.Thread(target=put) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
