"""Why readers got an error is kept, a device at a time."""

from hotstart.core.errors import IntegrityError, UserError
from lazyfs import reader_failures
from lazyfs.reader_failures import ReaderFailures


def test_the_last_failure_of_a_device_is_kept_with_its_time_and_its_kind():
    kept = ReaderFailures()
    kept.note("a", UserError("denied", "check the credentials"))
    kept.note("a", IntegrityError("wrong"))
    kept.note("b", OSError("full"))
    told = kept.to_json()
    assert (told["a"]["error"], told["a"]["root"]) == ("wrong", "IntegrityError")
    assert told["b"]["root"] == "HotstartError"
    assert told["a"]["at_ns"] <= told["b"]["at_ns"]


def test_of_too_many_devices_the_one_that_failed_longest_ago_is_forgotten(monkeypatch):
    monkeypatch.setattr(reader_failures, "KEPT", 2)
    kept = ReaderFailures()
    for device in ("a", "b", "a", "c"):
        kept.note(device, IntegrityError("wrong"))
    assert sorted(kept.to_json()) == ["a", "c"]
