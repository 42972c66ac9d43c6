"""The S3 store against a real server: the contracts, and how each failure is named."""

import itertools
import os

import pytest

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store.blob_store import SMALL_BLOB, StoreDenied, StoreMissing, StoreUnavailable
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceName
from hotstart.store.retrying import RetryPolicy
from hotstart.store.s3 import S3Blobs, S3Bucket, S3References
from hotstart.store.s3_bucket import BucketUrlInvalid
from hotstart.store.stack import open_store
from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.lease_objects import LeaseObjectsContract
from tests.contracts.reference_store import ReferenceStoreContract

pytestmark = pytest.mark.s3

QUICK = RetryPolicy(attempts=2, sleep=lambda delay_s: None)
_prefixes = itertools.count()


@pytest.fixture(scope="session")
def shared_bucket(seaweedfs):
    """One bucket for the session: the first write to a new one takes the server seconds."""
    return seaweedfs.fresh_bucket()


@pytest.fixture
def bucket(s3_environment, shared_bucket):
    """An empty prefix of the shared bucket."""
    return S3Bucket.open(f"s3://{shared_bucket}/test/{next(_prefixes)}")


class TestS3Blobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, bucket):
        return S3Blobs(bucket)

    @pytest.fixture(autouse=True)
    def _keep(self, bucket):
        self.bucket = bucket

    def damage(self, blobs, digest, content):
        self.bucket.put(f"blobs/sha256/{digest.hex}", content)

    def test_put_of_a_large_blob_that_is_there_uploads_nothing(self, blobs, monkeypatch):
        content = bytes(SMALL_BLOB + 1)
        blobs.put(Digest.of(content), content)
        monkeypatch.setattr(self.bucket, "put", None)
        blobs.put(Digest.of(content), content)


class TestS3References(ReferenceStoreContract):
    race_turns = 2
    racers = 4
    """This server lets colliding writers wait for whole seconds."""

    @pytest.fixture
    def references(self, bucket):
        return S3References(bucket)


def test_a_blob_of_several_parts_is_read_back(bucket):
    content = os.urandom(1 << 20) * 40
    store = open_store(bucket.url)
    store.blobs.put(Digest.of(content), content)
    assert store.blobs.read(Digest.of(content)) == content
    assert store.blobs.read(Digest.of(content), Span(39 << 20, 100)) == content[39 << 20 :][:100]


def test_two_prefixes_of_one_bucket_are_two_stores(shared_bucket, s3_environment):
    one, two = (open_store(f"s3://{shared_bucket}/side/{side}") for side in "ab")
    one.blobs.put(Digest.of(b"x"), b"x")
    one.references.swap(ReferenceName("only-one"), Descriptor.of("a/b", b"x"), None)
    assert not two.blobs.has(Digest.of(b"x"))
    assert list(two.references.names()) == []


def test_the_url_alone_reaches_the_endpoint(seaweedfs, shared_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    url = f"s3://{shared_bucket}/by-url?endpoint={seaweedfs.endpoint}&region=us-east-1"
    store = open_store(url)
    store.blobs.put(Digest.of(b"by url"), b"by url")
    assert open_store(store.url).blobs.read(Digest.of(b"by url")) == b"by url"


def test_the_first_write_makes_a_missing_bucket(s3_environment):
    store = open_store("s3://made-by-first-write/prefix")
    store.blobs.put(Digest.of(b"first"), b"first")
    assert store.blobs.read(Digest.of(b"first")) == b"first"


def test_a_missing_bucket_is_an_empty_store_that_may_be_made(s3_environment):
    store = open_store("s3://never-made")
    assert not store.blobs.has(Digest.of(b"x"))
    assert list(store.blobs.digests()) == []
    assert list(store.references.names()) == []


def test_a_missing_bucket_is_a_missing_store_without_create(s3_environment):
    store = open_store("s3://never-made", create=False)
    with pytest.raises(StoreMissing):
        list(store.references.names())
    with pytest.raises(StoreMissing):
        list(store.blobs.digests())


def test_wrong_credentials_are_denied(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(bucket.url, retry=QUICK)
    name = ReferenceName("a")
    calls = (
        lambda: store.blobs.read(Digest.of(b"x")),
        lambda: store.blobs.read(Digest.of(b"x"), Span(0, 1)),
        lambda: store.blobs.put(Digest.of(b"x"), b"x"),
        lambda: list(store.blobs.digests()),
        lambda: store.references.get(name),
        lambda: store.references.swap(name, Descriptor.of("a/b", b"x"), None),
        lambda: list(store.references.names()),
    )
    for call in calls:
        with pytest.raises(StoreDenied, match="access denied"):
            call()


def test_no_credentials_are_denied(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreDenied):
        open_store(bucket.url, retry=QUICK).blobs.put(Digest.of(b"x"), b"x")


def test_an_unreachable_server_is_unavailable(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    store = open_store("s3://some-bucket?endpoint=http://127.0.0.1:9", retry=QUICK)
    with pytest.raises(StoreUnavailable):
        store.blobs.read(Digest.of(b"x"))
    with pytest.raises(StoreUnavailable):
        store.blobs.put(Digest.of(b"x"), b"x")
    with pytest.raises(StoreUnavailable):
        store.references.get(ReferenceName("a"))
    with pytest.raises(StoreUnavailable):
        list(store.references.names())


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://UPPER/x",
        "s3://bucket?endpoint=ftp://x",
        "s3://bucket?unknown=1",
        "s3://bucket/x#fragment",
    ],
)
def test_urls_that_name_no_bucket_are_refused(url):
    with pytest.raises(BucketUrlInvalid):
        open_store(url)


class TestS3Leases(LeaseObjectsContract):
    @pytest.fixture
    def store(self, bucket):
        return open_store(bucket.url)
