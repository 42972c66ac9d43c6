"""A long call passes events on in order, ends once, and can be cancelled."""

import threading

import pytest

from agent.long_call import CallPhases, LongCall
from agent.status import CallCancelled
from hotstart.core.errors import NotFound
from hotstart.core.progress import Progress


def test_events_come_in_order_and_then_the_result():
    call = LongCall()

    def work():
        call.notify("begun")
        call.update(Progress("fetch", 1, 2))
        call.update(Progress("fetch", 2, 2, finished=True))
        return "done"

    call.start(work)
    assert list(call.events()) == [
        "begun",
        Progress("fetch", 1, 2),
        Progress("fetch", 2, 2, finished=True),
    ]
    assert call.result() == "done"


def test_a_fast_task_is_thinned_but_its_end_is_kept():
    call = LongCall()

    def work():
        for done in range(1000):
            call.update(Progress("fetch", done, 1000))
        call.update(Progress("fetch", 1000, 1000, finished=True))

    call.start(work)
    events = list(call.events())
    assert len(events) < 1000
    assert events[-1].finished


def test_failures_are_raised_by_result():
    call = LongCall()

    def work():
        raise NotFound("no such thing")

    call.start(work)
    assert list(call.events()) == []
    with pytest.raises(NotFound, match="no such thing"):
        call.result()


def test_cancelled_work_stops_at_its_next_check():
    call, begun, steps = LongCall(), threading.Event(), []

    def work():
        begun.set()
        while True:
            call.check()
            steps.append(None)

    call.start(work)
    assert begun.wait(10)
    call.cancel()
    list(call.events())
    with pytest.raises(CallCancelled):
        call.result()


def test_no_phase_begins_when_nobody_waits():
    call, begun, cancelled = LongCall(), threading.Event(), threading.Event()
    phases = CallPhases(call)

    def work():
        with phases.phase("first"):
            begun.set()
            assert cancelled.wait(10)
        with phases.phase("second"):
            raise AssertionError("the second phase must not begin")

    call.start(work)
    assert begun.wait(10)
    call.cancel()
    cancelled.set()
    list(call.events())
    with pytest.raises(CallCancelled):
        call.result()
    assert "first_ms" in phases.report()


def test_whoever_waits_long_hears_of_a_cancellation_and_of_any_other_end():
    call = LongCall()
    phases = CallPhases(call)
    phases.check()

    def fail():
        raise NotFound("it was stopped")

    phases.also_check(fail)
    with pytest.raises(NotFound), phases.phase("pull"):
        raise AssertionError("no phase begins")
    call.cancel()
    with pytest.raises(CallCancelled):
        phases.check()


def test_a_cancellation_interrupts_what_is_waited_for_once():
    call, interrupted, begun = LongCall(), [], threading.Event()
    ended = threading.Event()

    def work():
        call.on_cancel(lambda: (interrupted.append(None), ended.set()))
        begun.set()
        assert ended.wait(10)

    call.start(work)
    assert begun.wait(10)
    call.cancel()
    call.cancel()
    list(call.events())
    call.result()
    call.cancel()  # gRPC does so at the end of every call
    assert len(interrupted) == 1
