"""A process that is traced is named, with its tracer."""

import os

import pytest

from runtime.tracers import traced_by
from tests.tracer import program, tracing

pytestmark = pytest.mark.kernel


@pytest.fixture
def traced():
    """A process, and one that traces it."""
    with program("cat") as victim, tracing(victim.pid) as tracer:
        yield victim.pid, tracer


def test_a_traced_process_is_named_with_its_tracer_outside(traced):
    victim, tracer = traced
    said = traced_by([victim])
    assert said.startswith(f"its process {victim} (cat) is traced by a process outside")
    assert f"{tracer} (python" in said
    assert said.endswith("end that debugger or strace first")


def test_a_tracer_in_the_container_is_named_as_the_container_does(traced):
    victim, tracer = traced
    assert f"is traced by its process {tracer} (python" in traced_by([tracer, victim])


def test_nobody_is_traced():
    assert traced_by([os.getpid(), 2**22 + 1]) == ""
