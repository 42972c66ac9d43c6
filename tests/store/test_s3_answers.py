"""How the S3 store takes answers that a healthy server does not give."""

from datetime import timedelta

import pytest

from hotstart.core.digest import Digest
from hotstart.core.span import Span
from hotstart.store import media_types, s3_bucket
from hotstart.store.blob_store import StoreBusy, StoreDenied, StoreMissing, StoreUnavailable
from hotstart.store.descriptor import Descriptor
from hotstart.store.packs import PackWriter
from hotstart.store.references import ReferenceName, ReferenceUnreadable
from hotstart.store.retrying import RetryPolicy
from hotstart.store.s3 import S3Blobs, S3Bucket
from hotstart.store.s3_bucket import BucketUrlInvalid
from hotstart.store.stack import open_store
from tests.store.answering_server import Answer, answering

CONTENT = b"0123456789"
DIGEST = Digest.of(CONTENT)
DATED = {"Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}
GOOD_SPAN = {
    "ETag": '"1"',
    **DATED,
    "Content-Range": "bytes 2-5/10",
}
NO_BUCKET = Answer(404, b"<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>")


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")


def opened(endpoint, attempts=3, *, create=True):
    policy = RetryPolicy(attempts=attempts, sleep=lambda delay_s: None)
    return open_store(f"s3://bucket/p?endpoint={endpoint}", retry=policy, create=create)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors_are_repeated_until_a_good_answer(status):
    good = Answer(206, CONTENT[2:6], GOOD_SPAN)
    with answering(Answer(status), Answer(status), good) as (endpoint, requests):
        assert opened(endpoint).blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]
    assert requests == [f"GET /bucket/p/blobs/sha256/{DIGEST.hex}"] * 3


def test_a_body_that_ends_early_is_repeated():
    short = Answer(206, CONTENT[2:4], GOOD_SPAN, declared=4)
    good = Answer(206, CONTENT[2:6], GOOD_SPAN)
    with answering(short, good) as (endpoint, _):
        assert opened(endpoint).blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]


def test_a_body_that_always_ends_early_is_unavailable():
    short = Answer(206, CONTENT[2:4], GOOD_SPAN, declared=4)
    with answering(short) as (endpoint, _), pytest.raises(StoreUnavailable):
        opened(endpoint).blobs.read(DIGEST, Span(2, 4))


def test_a_reference_that_cannot_be_read_can_be_removed_as_it_was_read():
    name, headers = ReferenceName.parse("app:v1"), {"ETag": '"7"', **DATED}
    document = Answer(200, b"no document", headers)
    with answering(document, document, Answer(200, b"", headers)) as (endpoint, requests):
        references = opened(endpoint).references
        with pytest.raises(ReferenceUnreadable, match="app:v1 cannot be read") as caught:
            references.get(name)
        references.remove(name, caught.value.version)
    assert requests[-1].startswith("PUT /bucket/p/references/app/")


def test_the_last_server_error_is_unavailable():
    with answering(Answer(503)) as (endpoint, requests):
        with pytest.raises(StoreUnavailable, match="503"):
            opened(endpoint).blobs.size(DIGEST)
        assert len(requests) == 3


def test_forbidden_is_denied_and_asked_once():
    with answering(Answer(403, b"<Error><Code>AccessDenied</Code></Error>")) as (
        endpoint,
        requests,
    ):
        with pytest.raises(StoreDenied):
            opened(endpoint).blobs.read(DIGEST)
        assert len(requests) == 1


def expired(status=403):
    return Answer(status, b"<Error><Code>ExpiredToken</Code></Error>")


@pytest.fixture
def credentials_file(tmp_path, monkeypatch):
    """Gives what writes a credentials file; nothing else says where credentials are."""
    path = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))

    def write(key):
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")

    write("first")
    return write


@pytest.mark.parametrize("status", [400, 403])
def test_expired_credentials_are_read_again_and_the_request_repeated(credentials_file, status):
    with answering(expired(status), Answer(206, CONTENT[2:6], GOOD_SPAN)) as (endpoint, requests):
        blobs = opened(endpoint).blobs
        credentials_file("second")
        assert blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]
        assert len(requests) == 2


def test_credentials_that_are_refused_again_are_an_error(credentials_file):
    with answering(expired()) as (endpoint, requests):
        blobs = opened(endpoint).blobs
        credentials_file("second")
        with pytest.raises(StoreDenied, match="ExpiredToken"):
            blobs.read(DIGEST, Span(2, 4))
        assert len(requests) == 2


def test_the_same_credentials_are_not_tried_again(credentials_file):
    with answering(expired()) as (endpoint, requests):
        with pytest.raises(StoreDenied):
            opened(endpoint).blobs.read(DIGEST, Span(2, 4))
        assert len(requests) == 1


def test_what_these_credentials_may_not_do_is_not_tried_with_others(credentials_file):
    with answering(Answer(403, b"<Error><Code>AccessDenied</Code></Error>")) as (
        endpoint,
        requests,
    ):
        blobs = opened(endpoint).blobs
        credentials_file("second")
        with pytest.raises(StoreDenied):
            blobs.read(DIGEST)
        assert len(requests) == 1


@pytest.mark.parametrize(
    ("ask", "good"),
    [
        (lambda store: store.blobs.size(DIGEST), Answer(200, CONTENT, GOOD_SPAN)),
        (lambda store: store.blobs.put(DIGEST, CONTENT), Answer(200, CONTENT, GOOD_SPAN)),
    ],
    ids=["head", "put"],
)
def test_every_request_gets_newer_credentials(credentials_file, ask, good):
    with answering(Answer(403), good) as (endpoint, requests):
        store = opened(endpoint)
        credentials_file("second")
        ask(store)
    refused, answered = requests
    assert answered == refused


@pytest.mark.parametrize(
    "busy", [Answer(503, b"<Error><Code>SlowDown</Code></Error>"), Answer(429)], ids=["503", "429"]
)
def test_a_store_that_asks_for_less_is_busy(busy):
    with answering(busy) as (endpoint, _), pytest.raises(StoreBusy):
        opened(endpoint, attempts=1).blobs.read(DIGEST, Span(2, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(206, CONTENT[2:8], GOOD_SPAN),
        Answer(206, CONTENT[3:7], GOOD_SPAN | {"Content-Range": "bytes 3-6/10"}),
        Answer(200, CONTENT, {"ETag": '"1"', "Last-Modified": GOOD_SPAN["Last-Modified"]}),
    ],
    ids=["longer", "another range", "everything"],
)
def test_bytes_that_were_not_asked_for_are_refused_and_asked_for_again(wrong):
    head = Answer(200, CONTENT, GOOD_SPAN)
    good = Answer(206, CONTENT[2:6], GOOD_SPAN)
    answers = [wrong, head, good] if len(wrong.body) == 6 else [wrong, good]
    with answering(*answers) as (endpoint, _):
        assert opened(endpoint).blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]


@pytest.fixture
def short_timeouts(monkeypatch):
    for name in ("_READ_TIMEOUT", "_WRITE_TIMEOUT"):
        monkeypatch.setattr(s3_bucket, name, timedelta(seconds=0.3))


@pytest.mark.parametrize(
    "ask",
    [
        lambda blobs: blobs.read(DIGEST, Span(2, 4)),
        lambda blobs: blobs.size(DIGEST),
        lambda blobs: blobs.put(DIGEST, CONTENT),
        lambda blobs: list(blobs.digests()),
    ],
    ids=["read", "size", "put", "list"],
)
def test_a_server_that_never_answers_is_given_up_and_named(short_timeouts, ask):
    with answering(Answer(200, stalls=True)) as (endpoint, requests):
        with pytest.raises(StoreUnavailable, match=f"{endpoint}.*: the server does not answer"):
            ask(opened(endpoint, attempts=2).blobs)
        assert len(requests) == 2, "tried again, as what may pass is"


def test_a_body_that_stops_coming_is_given_up_and_the_next_answer_taken(short_timeouts):
    stalled = Answer(206, CONTENT[2:4], GOOD_SPAN, declared=4, stalls=True)
    good = Answer(206, CONTENT[2:6], GOOD_SPAN)
    with answering(stalled, good) as (endpoint, requests):
        assert opened(endpoint).blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]
    assert len(requests) == 2


def test_a_bucket_that_is_not_made_in_time_is_unavailable(short_timeouts):
    answers = NO_BUCKET, Answer(200, stalls=True)
    with answering(*answers) as (endpoint, _), pytest.raises(StoreUnavailable, match="timeout"):
        opened(endpoint, attempts=1).blobs.put(DIGEST, CONTENT)


def test_a_missing_bucket_is_made_once_and_the_write_repeated():
    stored = Answer(200, headers={"ETag": '"1"'})
    with answering(NO_BUCKET, Answer(200), stored) as (endpoint, requests):
        opened(endpoint).blobs.put(DIGEST, CONTENT)
    path = f"/bucket/p/blobs/sha256/{DIGEST.hex}"
    assert requests == [f"PUT {path}", "PUT /bucket", f"PUT {path}"]


def test_a_missing_bucket_is_not_made_without_create():
    with answering(NO_BUCKET) as (endpoint, requests):
        with pytest.raises(StoreMissing):
            opened(endpoint, create=False).blobs.put(DIGEST, CONTENT)
        assert len(requests) == 1


@pytest.mark.parametrize("create", [True, False])
def test_what_is_read_of_a_missing_bucket_names_the_bucket(create):
    with answering(NO_BUCKET) as (endpoint, _):
        store = opened(endpoint, create=create)
        with pytest.raises(StoreMissing, match="the bucket bucket does not exist"):
            store.blobs.read(DIGEST)
        with pytest.raises(StoreMissing, match="the bucket bucket does not exist"):
            store.references.get(ReferenceName.parse("app:v1"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "no bucket is named"),
        ("Upper", "cannot name a bucket"),
        ("ab", "3 to 63"),
        ("in..valid", "cannot name a bucket"),
        ("10.0.0.1", "is no address"),
    ],
)
def test_what_cannot_be_a_bucket_is_refused_with_the_rule(name, words):
    with pytest.raises(BucketUrlInvalid, match=words):
        S3Bucket.open(f"s3://{name}/prefix")


def test_a_bucket_that_may_not_be_made_is_denied():
    refusal = Answer(403, b"<Error><Code>AccessDenied</Code></Error>")
    with answering(NO_BUCKET, refusal) as (endpoint, requests):
        with pytest.raises(StoreDenied):
            opened(endpoint).blobs.put(DIGEST, CONTENT)
        assert requests[-1] == "PUT /bucket"


def test_the_endpoint_comes_from_where_aws_tools_take_it(monkeypatch):
    with answering(Answer(206, CONTENT[2:6], GOOD_SPAN)) as (endpoint, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        blobs = S3Blobs(S3Bucket.open("s3://bucket/p"))
        assert blobs.read(DIGEST, Span(2, 4)) == CONTENT[2:6]


PACK = bytes(range(256)) * (40 << 10)


def test_a_pack_whose_first_upload_was_given_up_half_sent_is_stored():
    """The abandoned request still reads the pack's buffer: it is not used again, and no error."""
    absent, made = Answer(404), Answer(200, headers={"ETag": '"1"'})
    answers = [absent, Answer(503, early=True), absent, made, absent, made]
    with answering(*answers) as (endpoint, requests):
        with PackWriter(opened(endpoint).blobs, target_size=len(PACK)) as writer:
            writer.append(PACK, raw=True)
            packs = writer.finish()
        assert writer._free == []
    assert packs == (Descriptor.of(media_types.PACK, PACK),)
    assert sum(request.startswith("PUT") for request in requests) == 2


def test_an_upload_that_fails_half_sent_says_what_the_store_said():
    answers = [Answer(404), Answer(503, early=True)]
    with answering(*answers) as (endpoint, _):
        blobs = opened(endpoint, attempts=1).blobs
        writer = PackWriter(blobs, target_size=len(PACK))
        writer.append(PACK, raw=True)
        writer.finish()
        with pytest.raises(StoreUnavailable):
            writer.__exit__(None, None, None)
