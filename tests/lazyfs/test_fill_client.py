"""A request outlives its worker, and an error of the worker's is of the same kind for who asked."""

import contextlib
import itertools
import socket
import threading
import time

import pytest

from hotstart.core.digest import DigestMismatch
from hotstart.core.errors import (
    Conflict,
    HotstartError,
    IntegrityError,
    NotFound,
    Unavailable,
    UserError,
)
from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from hotstart.store.format_errors import FormatVersionUnknown
from hotstart.store.trace import Trace
from lazyfs.control_server import ControlServer
from lazyfs.fill_client import FillClient, FillRefused, FillWorkerGone, PrefetchFailed
from lazyfs.fill_service import SetUnknown
from lazyfs.plans import EverythingPlan, TracePlan
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


def test_a_refusal_keeps_its_hint(worker):
    client, failing, job = worker
    failing.append(Conflict("it is in use", "stop its containers"))
    with pytest.raises(Conflict) as refused:
        client.ping()
    assert refused.value.hint == "stop its containers"
    job.end(StoreDenied("s3://b", "403"))
    with pytest.raises(UserError) as failed:
        client.wait(1)
    assert failed.value.hint == StoreDenied("s3://b", "403").hint != ""


def test_a_hint_of_an_error_whose_kind_has_none_ends_its_sentence(worker):
    client, failing, job = worker
    damaged = DigestMismatch("pack", "a", "b")
    failing.append(damaged)
    job.end(damaged)
    for ask in (client.ping, lambda: client.wait(1)):
        with pytest.raises(IntegrityError) as told:
            ask()
        assert str(told.value).endswith(f"{damaged}; {DigestMismatch.hint}")


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


@contextlib.contextmanager
def workers(path, answers, under_way_s):
    """Give one answer a connection, as if each came from another worker."""

    def serve():
        for answer in answers:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                lines.readline()
                time.sleep(under_way_s)  # a request that takes its time
                client.sendall(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


GOOD = b'{"ok": true, "result": 7}\n'


@pytest.mark.parametrize("first", [b"", GOOD[:9]], ids=["no-answer", "a-part"])
def test_a_request_whose_worker_ends_under_it_is_asked_again(tmp_path, first):
    """However long it was under way: only the time that nobody is there counts."""
    with workers(tmp_path / "s", [first, GOOD], under_way_s=0.1):
        assert FillClient(tmp_path / "s", away_s=0.05).warm("mem://") == 7


def test_a_request_that_ends_every_worker_comes_to_an_end(tmp_path):
    with (
        workers(tmp_path / "s", itertools.repeat(b""), under_way_s=0),
        pytest.raises(FillWorkerGone),
    ):
        FillClient(tmp_path / "s", away_s=0.05).ping()


def test_a_worker_that_is_there_and_does_not_answer_is_not_asked_for_ever(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        with pytest.raises(FillWorkerGone, match="no answer within"):
            FillClient(tmp_path / "s")._ask("ping", 0.01)


def test_a_prefetch_that_nobody_waits_for_any_more_is_stopped_and_begun_nowhere_else(tmp_path):
    class NobodyWaitsError(Exception):
        pass

    stopped, checks = [], []
    operations = {
        "prefetch": lambda _: 7,
        "job": lambda _: {"done": False},
        "stop": lambda request: stopped.append(request["job"]),
    }

    def check():
        checks.append(None)
        if len(checks) == 2:
            raise NobodyWaitsError

    server = ControlServer(tmp_path / "fill.sock", operations)
    server.start()
    client = FillClient(tmp_path / "fill.sock")
    job = client.prefetch(["a" * 64], EverythingPlan())
    with pytest.raises(NobodyWaitsError):
        client.wait(job, check)
    assert stopped == [7]

    def unknown(_):
        raise SetUnknown("no prefetch job 7")

    operations["job"] = unknown  # as its successor says
    with pytest.raises(SetUnknown):
        client.job(job)
    server.close()


def test_a_trace_stops_with_its_devices_and_nothing_else_does(tmp_path):
    """Neither a pull of them nor a trace that reaches another device as well."""
    begun, stopped = itertools.count(1), []
    operations = {
        "prefetch": lambda _: next(begun),
        "stop": lambda request: stopped.append(request["job"]),
    }
    server = ControlServer(tmp_path / "fill.sock", operations)
    server.start()
    client = FillClient(tmp_path / "fill.sock")
    a, b, c = (letter * 64 for letter in "abc")
    client.prefetch([a, b], EverythingPlan())
    mine = client.prefetch([a, b], TracePlan(Trace((a, b), ())))
    client.prefetch([a, c], TracePlan(Trace((a, c), ())))
    client.stop_traces([b, a])
    client.stop_traces([b, a])
    server.close()
    assert stopped == [mine]
