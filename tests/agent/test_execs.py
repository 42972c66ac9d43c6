"""A program in a container whose caller is gone before it has begun."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from agent import execs
from agent.execs import run_exec
from agent.long_call import LongCall
from agent.status import CallCancelled
from agent.values import ExecSpec


def test_a_program_whose_caller_left_while_it_was_started_is_ended(monkeypatch):
    call, ended = LongCall(), []

    @contextmanager
    def execute(*_):
        call.cancel()
        try:
            yield SimpleNamespace(kill=lambda: None)
        finally:
            ended.append(True)

    monkeypatch.setattr(execs, "execute", execute)
    monkeypatch.setattr(execs, "exec_process", lambda *_, **__: {})
    with pytest.raises(CallCancelled):
        run_exec(None, None, ExecSpec("web", ("sleep",)), stdin=iter(()), output=print, call=call)
    assert ended
