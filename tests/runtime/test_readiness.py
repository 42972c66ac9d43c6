"""Probes: what they take, what they wait for, what they say when it does not come."""

import os
import time

import pytest

from hotstart.core.errors import UserError
from hotstart.kernel.pidfd import ProcessIdentity
from runtime import readiness
from runtime.execution import execute
from runtime.readiness import ExecProbe, HttpProbe, NotReady, TcpProbe, parse_probe, wait_ready
from runtime.runc import RuncFailed


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("tcp:8000", TcpProbe(8000)),
        ("exec:test -f '/a b'", ExecProbe(("test", "-f", "/a b"))),
        (
            "http://localhost:80/health?x=1",
            HttpProbe(("127.0.0.1", "::1"), 80, "localhost", "/health?x=1"),
        ),
        ("http://0.0.0.0:81", HttpProbe(("127.0.0.1", "::1"), 81, "0.0.0.0", "/")),
        ("http://10.1.2.3:81/", HttpProbe(("10.1.2.3",), 81, "10.1.2.3", "/")),
        ("http://[::1]:81/", HttpProbe(("::1",), 81, "::1", "/")),
    ],
)
def test_probe_is_read(text, probe):
    assert parse_probe(text) == probe


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp:",
        "tcp:0",
        "tcp:65536",
        "tcp:x",
        "exec:",
        "exec:'",
        "https://a/",
        "ftp://a",
        "8000",
        "http://",
        "http://a:b/",
        "http://a/ b\r\nX: y",
        "http://user@a/",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="not a readiness probe"):
        parse_probe(text)


@pytest.mark.kernel
@pytest.mark.parametrize("probe", ["http://localhost:8000/up", "tcp:8000", "exec:ls /site/up"])
def test_probe_waits_until_the_server_is_there(start, probe):
    script = "sleep 0.2; echo yes > up; exec busybox httpd -f -p 8000 -h /site"
    with start(script) as container:
        wait_ready(container.directory, container.network, probe, 20)
        assert (container.directory.upper / "site" / "up").exists()


@pytest.mark.kernel
def test_error_status_is_not_ready(start):
    with (
        start("echo serving; exec busybox httpd -f -p 8000 -h /site") as container,
        pytest.raises(NotReady, match=r"no success in 0\.5 s.*answers status 404") as e,
    ):
        wait_ready(container.directory, container.network, "http://x:8000/missing", 0.5)
    assert e.value.lines == ["serving"]


@pytest.mark.kernel
@pytest.mark.parametrize("probe", ["tcp:8000", "exec:sh -c false", "http://localhost:8000/"])
def test_end_of_the_container_is_noticed_at_once(start, probe):
    with (
        start("echo starting; echo broken >&2; exit 3") as container,
        pytest.raises(NotReady, match="it has ended with status 3") as caught,
    ):
        wait_ready(container.directory, container.network, probe, 60)
    assert sorted(caught.value.lines) == ["broken", "starting"]


@pytest.mark.kernel
def test_server_that_accepts_and_never_answers_times_out(start):
    # The server that took one connection away is followed by one that never answers.
    with (
        start("busybox nc -l -p 8000 & exec sleep 60") as container,
        pytest.raises(NotReady, match=r"no success in 1 s"),
    ):
        wait_ready(container.directory, container.network, "http://localhost:8000/", 1)


@pytest.mark.kernel
def test_end_while_the_probe_waits_for_an_answer_is_noticed(start):
    with (
        start("busybox nc -l -p 8000 & sleep 0.5; exit 4") as container,
        pytest.raises(NotReady, match="it has ended with status 4"),
    ):
        wait_ready(container.directory, container.network, "http://localhost:8000/", 60)


@pytest.mark.kernel
def test_a_program_that_is_not_there_is_named_at_once(start):
    with start("exec sleep 60") as container, pytest.raises(NotReady, match="NOSUCH") as caught:
        wait_ready(container.directory, container.network, "exec:NOSUCH", 60)
    told = str(caught.value)
    assert "no success in" not in told, "the limit was waited for"
    assert told.count(f"{container.directory.name}: ") == 0, "the sentence begins with the name"
    assert "check the command" in told


@pytest.mark.kernel
def test_a_program_that_cannot_be_begun_this_time_is_tried_again(start, monkeypatch):
    tries = iter([RuncFailed("one", "exec", "no memory"), OSError("no space")])

    def execute_in_the_end(*arguments):
        for error in tries:
            raise error
        return execute(*arguments)

    monkeypatch.setattr(readiness, "execute", execute_in_the_end)
    with start("exec sleep 60") as container:
        wait_ready(container.directory, container.network, "exec:sh -c 'exit 0'", 20)
    assert next(tries, None) is None


def test_a_try_cut_short_by_the_limit_does_not_hide_what_the_one_before_it_said():
    answers = iter(["ends with status 3", "ends with status 137"])

    def attempt(_):
        said = next(answers)
        if "137" in said:
            time.sleep(0.1)  # the program takes all the time there is
        return said

    reason = readiness._poll(attempt, ProcessIdentity.of(os.getpid()), 0.1, 0.01)
    assert reason == "no success in 0.1 s (ends with status 3)"
