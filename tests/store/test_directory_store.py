"""The directory store: the contracts, durability, and how each failure of the disk is named."""

import errno
import fcntl
import mmap
import multiprocessing
import os
import signal
import sys

import pytest

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.errors import UserError
from hotstart.core.run import run
from hotstart.kernel.mounts import MS_RDONLY, MS_REMOUNT, mount
from hotstart.store.blob_store import (
    StoreDenied,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
)
from hotstart.store.descriptor import Descriptor
from hotstart.store.directory import DirectoryBlobs, DirectoryReferences
from hotstart.store.references import (
    ReferenceChanged,
    ReferenceName,
    ReferenceNotFound,
    ReferenceUnreadable,
)
from hotstart.store.stack import StoreUrlInvalid, open_store
from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.reference_store import ReferenceStoreContract

CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
NAME = ReferenceName.parse("team/app:v1")
TARGET = Descriptor.of("a/b", CONTENT)


class TestDirectoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, tmp_path):
        return DirectoryBlobs(tmp_path, "file://test")

    @pytest.fixture(autouse=True)
    def _keep(self, tmp_path):
        self.directory = tmp_path

    def damage(self, blobs, digest, content):
        (self.directory / "blobs" / "sha256" / digest.hex).write_bytes(content)


class TestDirectoryReferences(ReferenceStoreContract):
    @pytest.fixture
    def references(self, tmp_path):
        return DirectoryReferences(tmp_path, "file://test")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def test_the_url_opens_the_same_store_again(tmp_path):
    store = open_store(str(tmp_path / "with space and % ü"))
    store.blobs.put(DIGEST, CONTENT)
    assert store.url.startswith("file:///")
    assert open_store(store.url, create=False).blobs.read(DIGEST) == CONTENT


def test_a_relative_path_is_a_store_wherever_one_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = open_store("here").url
    assert url == f"file://{tmp_path}/here"


def test_a_missing_store_is_named_and_not_made(tmp_path):
    with pytest.raises(StoreMissing, match="there is no store here"):
        open_store(str(tmp_path / "absent"), create=False)
    assert not (tmp_path / "absent").exists()


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file, not a directory"):
        open_store(str(tmp_path / "file"))


@pytest.mark.parametrize("url", ["", "file://host/path", "ftp://x/y", "file:///x?y=1"])
def test_other_urls_are_refused_with_a_hint(url):
    with pytest.raises(StoreUrlInvalid) as caught:
        open_store(url)
    assert "s3://" in caught.value.hint


def test_a_whole_blob_with_a_flipped_byte_is_never_returned(store, tmp_path):
    store.blobs.put(DIGEST, CONTENT)
    path = tmp_path / "store" / "blobs" / "sha256" / DIGEST.hex
    path.write_bytes(b"Content")
    with pytest.raises(DigestMismatch):
        store.blobs.read(DIGEST)


@pytest.mark.parametrize("damaged", [b"Content", b"conten", b"", b"content!"])
def test_putting_a_damaged_blob_again_repairs_it(store, tmp_path, damaged):
    store.blobs.put(DIGEST, CONTENT)
    (tmp_path / "store" / "blobs" / "sha256" / DIGEST.hex).write_bytes(damaged)
    store.blobs.put(DIGEST, CONTENT)
    assert store.blobs.read(DIGEST) == CONTENT


KILLED = """
import os, signal, sys
from pathlib import Path
from hotstart.core.digest import Digest
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

store = open_store(sys.argv[1])
name = ReferenceName.parse("team/app:v1")
version = store.references.get(name).version
if sys.argv[3] == "replace":
    Path.replace = die
else:
    os.fsync = die
if sys.argv[2] == "put":
    store.blobs.put(Digest.of(b"new"), b"new")
else:
    store.references.swap(name, Descriptor.of("a/b", b"new"), version)
"""


@pytest.mark.parametrize("point", ["fsync", "replace"])
@pytest.mark.parametrize("change", ["put", "swap"])
def test_a_writer_killed_before_its_commit_changes_nothing(store, change, point):
    made = store.references.swap(NAME, TARGET, None)
    store.blobs.put(DIGEST, CONTENT)
    done = run([sys.executable, "-c", KILLED, store.url, change, point], check=False, timeout_s=60)
    assert done.status == -signal.SIGKILL, done.stderr
    again = open_store(store.url)
    assert again.references.get(NAME) == made
    assert list(again.blobs.digests()) == [(DIGEST, len(CONTENT))]
    again.blobs.put(Digest.of(b"new"), b"new")
    assert again.references.swap(NAME, Descriptor.of("a/b", b"new"), made.version)


def test_a_store_that_vanishes_is_missing_and_not_empty(store, tmp_path):
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(StoreMissing):
        store.blobs.read(DIGEST)
    with pytest.raises(StoreMissing):
        list(store.blobs.digests())


def test_a_put_leaves_nothing_in_staging(store, tmp_path):
    store.blobs.put(DIGEST, CONTENT)
    store.references.swap(NAME, TARGET, None)
    assert os.listdir(tmp_path / "store" / "staging") == []


@pytest.mark.parametrize("skipped", [0, 1])
def test_large_blobs_are_written_past_the_page_cache_if_they_are_aligned(
    store, monkeypatch, skipped
):
    """A buffer that does not begin on a page is refused (EINVAL), and then takes the usual way."""
    content = memoryview(mmap.mmap(-1, (2 << 20) + 100))[skipped:]
    content[-5:] = b"final"
    written = []
    pwrite = os.pwrite

    def watched(descriptor, piece, offset):
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        done = pwrite(descriptor, piece, offset)
        written.append((direct, offset, done))
        return done

    monkeypatch.setattr(os, "pwrite", watched)
    digest = Digest.of(content)
    store.blobs.put(digest, content)
    assert bytes(store.blobs.read(digest)) == bytes(content)
    if skipped:
        assert written == [(False, 0, len(content))]
    else:
        assert written == [(True, 0, 2 << 20), (False, 2 << 20, 100)]


@pytest.mark.parametrize(("code", "error"), [("EIO", StoreUnavailable), ("ENOSPC", StoreFull)])
def test_a_direct_write_that_fails_is_not_tried_the_usual_way(
    store, tmp_path, monkeypatch, code, error
):
    asked = []

    def fail(descriptor, piece, offset):
        asked.append(offset)
        raise OSError(getattr(errno, code), "no")

    monkeypatch.setattr(os, "pwrite", fail)
    content = mmap.mmap(-1, 2 << 20)
    with pytest.raises(error):
        store.blobs.put(Digest.of(content), content)
    assert asked == [0]
    assert not list(tmp_path.rglob("staging/*"))


def test_only_old_leftovers_of_dead_writers_are_swept(store, tmp_path):
    store.blobs.put(DIGEST, CONTENT)
    staging = tmp_path / "store" / "staging"
    (staging / "old").write_text("x")
    (staging / "new").write_text("x")
    os.utime(staging / "old", (1, 1))
    open_store(store.url)
    assert os.listdir(staging) == ["new"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EROFS, StoreReadOnly),
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
    ],
)
def test_failures_of_the_disk_are_named_and_leave_nothing(
    store, tmp_path, monkeypatch, number, error
):
    store.blobs.put(DIGEST, CONTENT)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("hotstart.store.directory.os.fsync", fail)
    with pytest.raises(error):
        store.blobs.put(Digest.of(b"other"), b"other")
    with pytest.raises(error):
        store.references.swap(NAME, TARGET, None)
    monkeypatch.undo()
    assert os.listdir(tmp_path / "store" / "staging") == []
    assert list(store.blobs.digests()) == [(DIGEST, len(CONTENT))]
    with pytest.raises(ReferenceNotFound):
        store.references.get(NAME)


def test_a_store_without_permission_names_the_path_and_no_credentials(store, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    monkeypatch.setattr("hotstart.store.directory.os.open", refuse)
    with pytest.raises(StoreDenied, match=f"no permission for /.*/{DIGEST.hex}") as denied:
        store.blobs.read(DIGEST)
    assert "credentials" not in denied.value.hint
    assert "--store" in denied.value.hint


def test_a_failed_swap_keeps_what_was_there(store, monkeypatch):
    made = store.references.swap(NAME, TARGET, None)

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("hotstart.store.directory.os.fsync", fail)
    with pytest.raises(StoreFull):
        store.references.swap(NAME, Descriptor.of("a/b", b"new"), made.version)
    assert store.references.get(NAME) == made


def test_a_damaged_reference_is_named_and_can_be_removed(store, tmp_path):
    store.references.swap(NAME, TARGET, None)
    path = tmp_path / "store" / "references" / "team" / "app" / "_tags" / "v1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReferenceUnreadable, match="team/app:v1 cannot be read") as caught:
        store.references.get(NAME)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ReferenceChanged):
        store.references.remove(NAME, caught.value.version)
    with pytest.raises(ReferenceUnreadable) as caught:
        store.references.get(NAME)
    store.references.remove(NAME, caught.value.version)
    assert list(store.references.names()) == []


def test_foreign_files_are_not_taken_for_blobs_or_names(store, tmp_path):
    store.blobs.put(DIGEST, CONTENT)
    store.references.swap(NAME, TARGET, None)
    root = tmp_path / "store"
    (root / "blobs" / "sha256" / "README").write_text("x")
    (root / "references" / "team" / "app" / "_tags" / "..bad").write_text("x")
    (root / "references" / "notes").write_text("x")
    assert list(store.blobs.digests()) == [(DIGEST, len(CONTENT))]
    assert list(store.references.names()) == [NAME]


def _swap_in_process(root, expected, number, results):
    references = DirectoryReferences(root, "file://test")
    try:
        references.swap(NAME, Descriptor.of("a/b", b"%d" % number), expected)
        results.put(number)
    except ReferenceChanged:
        results.put(None)


def test_of_racing_processes_exactly_one_wins(tmp_path):
    made = DirectoryReferences(tmp_path, "file://test").swap(NAME, TARGET, None)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.SimpleQueue()
    processes = [
        spawn.Process(target=_swap_in_process, args=(tmp_path, made.version, number, results))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get() for _ in processes]
    for process in processes:
        process.join()
        process.close()
    results.close()
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(winners) == 1
    current = DirectoryReferences(tmp_path, "file://test").get(NAME)
    assert current.target == Descriptor.of("a/b", b"%d" % winners[0])


@pytest.mark.kernel
def test_a_full_disk_is_named_and_keeps_what_it_holds(small_file_system):
    store = open_store(str(small_file_system / "store"))
    store.blobs.put(DIGEST, CONTENT)
    big = os.urandom(1 << 20) * 64
    with pytest.raises(StoreFull):
        store.blobs.put(Digest.of(big), big)
    assert list(store.blobs.digests()) == [(DIGEST, len(CONTENT))]
    assert store.blobs.read(DIGEST) == CONTENT
    assert os.listdir(small_file_system / "store" / "staging") == []


@pytest.mark.kernel
def test_a_read_only_disk_is_read_and_refuses_writes_by_name(small_file_system):
    store = open_store(str(small_file_system / "store"))
    store.blobs.put(DIGEST, CONTENT)
    made = store.references.swap(NAME, TARGET, None)
    mount("none", small_file_system, "ext4", MS_REMOUNT | MS_RDONLY)
    store = open_store(store.url)
    assert store.blobs.read(DIGEST) == CONTENT
    assert store.references.get(NAME) == made
    with pytest.raises(StoreReadOnly):
        store.blobs.put(Digest.of(b"x"), b"x")
    with pytest.raises(StoreReadOnly):
        store.references.swap(NAME, TARGET, made.version)
    with pytest.raises(StoreReadOnly):
        store.references.remove(NAME, made.version)
    with pytest.raises(StoreReadOnly):
        store.blobs.remove(DIGEST)
