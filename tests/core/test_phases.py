"""Phases: what was measured, and what nobody accounts for."""

import pytest

from hotstart.core.phases import Phases


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_phases_add_up_and_the_rest_is_unaccounted():
    clock = Clock()
    phases = Phases(clock)
    for _ in range(2):
        with phases.phase("mount"):
            clock.now_s += 0.010
    clock.now_s += 0.005
    assert phases.report() == {"mount_ms": 20.0, "unaccounted_ms": 5.0}


def test_a_failed_phase_is_measured_too():
    clock = Clock()
    phases = Phases(clock)

    def fail():
        with phases.phase("restore"):
            clock.now_s += 0.002
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert phases.report()["restore_ms"] == 2.0


def test_overlapping_phases_never_make_the_rest_negative():
    phases = Phases(Clock())
    phases.add("a", 7.0)
    phases.add("b", 8.0)
    assert phases.report(10.0) == {"a_ms": 7.0, "b_ms": 8.0, "unaccounted_ms": 0.0}


def test_a_mark_keeps_its_first_moment():
    clock = Clock()
    phases = Phases(clock)
    clock.now_s += 0.003
    phases.mark("ready")
    clock.now_s += 1
    phases.mark("ready")
    assert phases.marks() == {"ready": 3.0}
