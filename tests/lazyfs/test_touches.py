"""Touch logs: one recording at a time, none of them without bounds."""

import pytest

from lazyfs import touches
from lazyfs.touches import RecordingUnderWay, TouchLog


def test_a_second_recording_is_refused_and_takes_nothing_of_the_first():
    log = TouchLog()
    log.start()
    log.add(1, 1)
    with pytest.raises(RecordingUnderWay):
        log.start()
    log.add(2, 1)
    assert [touch[1:] for touch in log.stop()] == [(1, 1), (2, 1)]
    log.start()
    assert log.stop() == []


def test_no_more_is_logged_than_a_trace_holds(monkeypatch):
    monkeypatch.setattr(touches, "MAX_SPANS", 3)
    log = TouchLog()
    log.start()
    for page in range(9):
        log.add(page, 1)
    assert len(log.stop()) == 3
