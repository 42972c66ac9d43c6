"""Weights of a bucket: what of a listing is mounted, and what is left out by name."""

import pytest

from hotstart.core.span import PAGE
from hotstart.store.object_list import PIECE_BYTES, ObjectList, ObjectListInvalid
from hotstart.store.pinned_object import ListedObject
from lazyfs.cache import Cache
from runtime.weights import NoObjects, is_weights_url, make_weights

URL = "s3://models/llama"
NOON_NS = 1_700_000_000 * 10**9


def one(key, size=10, etag="e", mtime_ns=NOON_NS):
    return ListedObject(key, etag, size, mtime_ns)


@pytest.fixture
def weights(tmp_path):
    return lambda *listing: make_weights(URL, listing, Cache(tmp_path))


def listed(weights, tmp_path):
    (device,) = weights.spec.devices
    path = Cache(tmp_path).objects_path(device.device_id)
    return ObjectList.decode(path.read_bytes())


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("a/../b", "'..'"),
        ("a//b", "empty"),
        ("/b", "empty"),
        ("./b", "'.'"),
        ("b/", "empty"),
        ("n" * 256, "more than 255 bytes"),
        ("\u00e9" * 128, "more than 255 bytes"),
        ("new\nline", "no text"),
        ("not\ufffdutf8", "no text"),
    ],
)
def test_a_key_that_no_file_can_have_is_left_out_by_name(weights, tmp_path, key, why):
    made = weights(one(key), one("good"))
    (sentence,) = made.skipped
    assert repr(key)[:300] in sentence
    assert why in sentence
    assert [one.key for one in listed(made, tmp_path).objects] == ["good"]


def test_a_key_below_which_others_lie_is_a_directory(weights, tmp_path):
    made = weights(one("a/b"), one("a"), one("a-b"))
    (sentence,) = made.skipped
    assert "'a'" in sentence
    assert [one.key for one in listed(made, tmp_path).objects] == ["a-b", "a/b"]


def test_a_marker_of_a_directory_is_no_file(weights):
    assert weights(one("d/", size=0, etag=""), one("d/f")).skipped == ()


def test_an_object_without_an_etag_is_left_out(weights):
    (sentence,) = weights(one("f", etag=""), one("g")).skipped
    assert "'f'" in sentence
    assert "ETag" in sentence


def test_nothing_to_mount_says_what_was_left_out(weights):
    with pytest.raises(NoObjects, match=r"'a//b' is left out"):
        weights(one("a//b"))


def test_the_same_listing_is_the_same_device_in_whatever_order(weights):
    first = weights(one("a"), one("b", size=PIECE_BYTES + 1))
    second = weights(one("b", size=PIECE_BYTES + 1), one("a"))
    assert first.spec == second.spec


@pytest.mark.parametrize("changed", [one("a", etag="other"), one("a", size=11), one("c")])
def test_another_etag_size_or_key_is_another_device(weights, changed):
    first, second = weights(one("a"), one("b")), weights(changed, one("b"))
    assert first.spec.devices[0].device_id != second.spec.devices[0].device_id


def test_another_time_is_another_mount_of_the_same_device(weights):
    first, second = weights(one("a")), weights(one("a", mtime_ns=NOON_NS + 10**9))
    assert first.spec.devices == second.spec.devices
    assert first.spec.manifest != second.spec.manifest


def test_objects_of_no_bytes_need_no_device(weights):
    assert weights(one("a", size=0)).spec.devices == ()


def test_large_objects_and_many_of_them_fit(weights, tmp_path):
    many = [one(f"d{n % 100}/{n:06}", size=5000) for n in range(20_000)]
    made = weights(one("large", size=6 << 40, etag="e-1000"), *many)
    assert made.spec.devices[0].size_bytes == (6 << 40) + 20_000 * 2 * PAGE
    assert len(listed(made, tmp_path).objects) == 20_001


def test_more_bytes_than_a_device_can_have_are_refused(weights):
    with pytest.raises(ObjectListInvalid, match="more than one mount can have"):
        weights(one("a", size=5 << 40), one("b", size=5 << 40))


def test_only_a_bucket_url_names_weights():
    assert is_weights_url("s3://bucket/prefix")
    assert not is_weights_url("team/app:v1")
