"""What a start, or the end of a container, is told of reads that failed meanwhile."""

import pytest

from agent.failed_reads import FailedReads, ReadsFailed
from agent.records import ContainerRecord, HeldMount
from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError, IntegrityError, Unavailable, UserError
from hotstart.store import media_types
from hotstart.store.blob_store import BlobNotFound, StoreDenied
from hotstart.store.descriptor import Descriptor
from lazyfs.disk_space import DiskFull
from lazyfs.error_roots import error_to_json
from lazyfs.fill_client import FillWorkerGone
from lazyfs.spec import DeviceSpec, MountSpec
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec

TABLE = Descriptor(media_types.CHUNK_TABLE, Digest.of(b"table"), 100)
DEVICE = DeviceSpec(4096, TABLE, 10, Digest.of(b"head"), "file:///s")
MOUNT = MountSpec(Digest.of(b"manifest").hex, TABLE, (DEVICE,), "file:///s")
RECORD = ContainerRecord(
    spec=ContainerSpec(name="web"),
    stage="running",
    store_url="file:///s",
    reference="app:v1",
    digest="",
    image_reference="app:v1",
    image_digest="",
    route="cold",
    created_ns=1000,
    mounts=(HeldMount(MOUNT, 128),),
)
NOT_EXECUTED = b"2026-01-01T00:00:00.000000000+00:00 stderr F exec /bin/x: input/output error\n"


def reads(error, at_ns=1001, device=DEVICE.device_id):
    return FailedReads(lambda: {device: {**error_to_json(error), "at_ns": at_ns}})


def raised(known, err):
    with pytest.raises(HotstartError) as caught, known.explaining(RECORD, lambda: [MOUNT]):
        raise err
    return caught.value


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (IntegrityError("chunk is wrong"), IntegrityError),
        (BlobNotFound("file:///s", Digest.of(b"pack")), IntegrityError),
        (Unavailable("no answer"), Unavailable),
        (StoreDenied("s3://b", "GET"), UserError),
        (DiskFull("nothing may go"), ReadsFailed),
    ],
)
def test_a_start_that_fails_after_a_failed_read_is_told_why_in_its_kind(cause, kind):
    told = raised(reads(cause), HotstartError("CRIU: Input/output error"))
    assert isinstance(told, kind)
    assert str(told).startswith("files of app:v1 could not be read: ")
    assert str(cause) in str(told)
    assert str(told).endswith("so this failed: CRIU: Input/output error")


def test_a_full_disk_is_named(container_root):
    told = reads(DiskFull("nothing may go")).reason_of(RECORD, _directory(container_root), 1)
    assert "no space is left for the cache" in told


def test_an_error_that_says_what_is_wrong_stays_as_it_is():
    own = UserError("no such command")
    assert raised(reads(IntegrityError("chunk is wrong")), own) is own


@pytest.mark.parametrize("other", [{"at_ns": 999}, {"device": "another"}])
def test_failures_of_before_and_of_other_images_explain_nothing(other):
    own = HotstartError("it failed")
    assert raised(reads(IntegrityError("chunk is wrong"), **other), own) is own


def test_without_a_fill_worker_the_error_stays_as_it_is():
    def gone():
        raise FillWorkerGone("no fill worker answers")

    own = HotstartError("it failed")
    assert raised(FailedReads(gone), own) is own


@pytest.fixture
def container_root(tmp_path):
    return tmp_path


def _directory(root, log=b""):
    directory = ContainerDirectory.of(root, "web")
    directory.path.mkdir(parents=True)
    directory.log.write_bytes(log)
    return directory


def test_a_container_that_ended_well_has_no_reason(container_root):
    known = reads(IntegrityError("chunk is wrong"))
    assert known.reason_of(RECORD, _directory(container_root), 0) == ""


def test_only_a_program_that_was_never_executed_fails_who_waits_for_it(container_root):
    known = reads(IntegrityError("chunk is wrong"))
    directory = _directory(container_root)
    assert "chunk is wrong" in known.reason_of(RECORD, directory, 135)
    known.require_executed("web")
    directory.log.write_bytes(NOT_EXECUTED)
    assert "chunk is wrong" in known.reason_of(RECORD, directory, 1)
    with pytest.raises(IntegrityError, match="chunk is wrong"):
        known.require_executed("web")
    known.reason_of(RECORD, directory, 0)  # the next container of that name
    known.require_executed("web")
