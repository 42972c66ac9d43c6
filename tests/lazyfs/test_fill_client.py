"""An error of the fill worker's is of the same kind for whoever asked it."""

import pytest

from hotstart.core.errors import HotstartError, IntegrityError, NotFound, Unavailable, UserError
from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from hotstart.store.format_errors import FormatVersionUnknown
from lazyfs.control_server import ControlServer
from lazyfs.fill_client import FillClient, FillRefused, PrefetchFailed
from lazyfs.fill_service import SetUnknown
from lazyfs.prefetch import PrefetchJob

ERRORS = [
    (StoreUnavailable("s3://b", "no answer"), Unavailable),
    (FormatVersionUnknown("chunk table", 9, (1,)), IntegrityError),
    (StoreDenied("s3://b", "403"), UserError),
    (NotFound("no blob"), NotFound),
    (SetUnknown("no set"), SetUnknown),
    (HotstartError("odd"), FillRefused),
    (ZeroDivisionError("a bug"), FillRefused),
]


@pytest.fixture
def worker(tmp_path):
    """Give a client of a worker that fails with a given error, and has one prefetch job."""
    failing, job = [], PrefetchJob("everything")

    def fail(request):
        raise failing[0]

    operations = {"ping": fail, "job": lambda request: job.to_json()}
    server = ControlServer(tmp_path / "fill.sock", operations)
    server.start()
    yield FillClient(tmp_path / "fill.sock", away_s=0), failing, job
    server.close()


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: type(value).__name__)
def test_a_refusal_keeps_its_kind(worker, error, kind):
    client, failing, _ = worker
    failing.append(error)
    with pytest.raises(kind) as refused:
        client.ping()
    assert type(refused.value) is kind
    assert str(error) in str(refused.value)


@pytest.mark.parametrize(("error", "kind"), ERRORS[:4], ids=lambda value: type(value).__name__)
def test_a_failed_prefetch_keeps_its_kind(worker, error, kind):
    client, _, job = worker
    job.end(error)
    with pytest.raises(kind, match="prefetch of everything"):
        client.wait(1)


def test_a_prefetch_that_failed_oddly_is_called_so(worker):
    client, _, job = worker
    job.end(OSError("disk"))
    with pytest.raises(PrefetchFailed, match="disk"):
        client.wait(1)
