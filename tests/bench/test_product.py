"""A start through the command, with the command and its agent replaced by scripted ones."""

import json
import runpy
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import command
from bench.command import CommandRefused, CommandStart
from bench.product import ProductPath, WrongRoute, product_phases
from bench.question import Question
from bench.store_access import StoreAccess
from hotstart.core.run import Completed

Handler = runpy.run_path(str(Path(__file__).parent / "tiny_server.py"))["Handler"]
QUESTION = Question("hello").expecting([0.05, 0.25, -1.0])
STORE = StoreAccess("file:///store", {"PATH": "/usr/bin"})


@dataclass
class ScriptedAgent:
    """What a path uses of an agent; ``seen`` is what it was asked."""

    root: Path = Path("/root-of-agent")
    store: StoreAccess = STORE
    seen: list[str] = field(default_factory=list)

    @property
    def client(self):
        return self

    def containers(self):
        return [SimpleNamespace(name=name) for name in self.started()]

    def started(self):
        return [word.removeprefix("start ") for word in self.seen if word.startswith("start ")]

    def pull(self, url, reference):
        self.seen.append(f"pull {reference}")

    def stop(self, name, *, grace_s):
        self.seen.append(f"stop {name}")

    def remove(self, name):
        self.seen.append(f"remove {name}")


@pytest.fixture
def scripted(monkeypatch):
    """Give a function that scripts the command: it serves the published port and reports."""
    servers = []

    def script(agent, route="restore", error=None):
        def start(root, store, words, *, timeout_s):
            assert (root, store) == (agent.root, agent.store)
            agent.words = words
            name = words[words.index("--name") + 1]
            agent.seen.append(f"start {name}")
            if error is not None:
                raise error
            received_s = time.monotonic()
            port = int(words[words.index("--publish") + 1].split(":")[0])
            server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
            servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            return CommandStart(received_s - 0.25, 300.0, received_s, 1.0, route, "",
                                {"mount_ms": 0.25, "unaccounted_ms": 9.0}, 77)  # fmt: skip

        monkeypatch.setattr(command, "start", start)

    yield script
    for server in servers:
        server.shutdown()
        server.server_close()


def path(agent, **fields):
    base = ProductPath(
        name="restore",
        node=lambda: nullcontext(agent),
        verb="restore",
        reference="hot:v1",
        question=QUESTION,
        timeout_s=20,
    )
    return replace(base, **fields)


def test_a_sample_counts_from_the_request_and_the_wall_from_the_command(scripted):
    agent = ScriptedAgent()
    scripted(agent)
    sample = path(agent).measure(3)
    assert (sample.path, sample.round, sample.answer_ok) == ("restore", 3, True)
    assert sample.wall_ms >= sample.ready_ms + 249
    assert sum(sample.phases.values()) == pytest.approx(sample.ready_ms)
    assert sample.fetched_bytes == 77


def test_the_container_is_removed_after_a_good_and_after_a_bad_start(scripted):
    for error in (None, CommandRefused("no")):
        agent = ScriptedAgent()
        scripted(agent, error=error)
        if error is None:
            path(agent).measure(0)
        else:
            with pytest.raises(CommandRefused):
                path(agent).measure(0)
        (name,) = agent.started()
        assert agent.seen == [f"start {name}", f"stop {name}", f"remove {name}"]


def test_a_restore_that_started_cold_is_not_a_sample(scripted):
    agent = ScriptedAgent()
    scripted(agent, route="cold")
    with pytest.raises(WrongRoute, match="'cold', expected 'restore'"):
        path(agent).measure(0)


def test_restores_never_fall_back_and_cold_starts_never_use_a_snapshot(scripted):
    agent = ScriptedAgent()
    scripted(agent)
    path(agent).measure(0)
    assert "--no-fallback" in agent.words
    scripted(agent, route="cold")
    path(agent, verb="run", ready="http://127.0.0.1:8000/health").measure(0)
    assert "--no-snapshot" in agent.words
    assert agent.words[-2:] == ["--ready", "http://127.0.0.1:8000/health"]


def test_a_pull_comes_first_and_counts(scripted):
    agent = ScriptedAgent()
    scripted(agent, route="cold")
    sample = path(agent, verb="run", pull_first=True).measure(0)
    assert agent.seen[0] == "pull hot:v1"
    assert sample.phases["pull_ms"] >= 0
    assert sample.wall_ms >= sample.ready_ms


def test_a_start_without_the_wanted_phase_is_not_a_sample(scripted):
    agent = ScriptedAgent()
    scripted(agent)
    path(agent, phase="mount_ms").measure(0)
    with pytest.raises(WrongRoute, match="no pull_ms in this start, only mount_ms"):
        path(agent, phase="pull_ms").measure(0)


def test_each_round_may_start_another_reference(scripted):
    agent = ScriptedAgent()
    scripted(agent)
    each = path(agent, reference_of_round="hot:r{}".format)
    for number in range(2):
        assert each.measure(number).round == number
        assert agent.words[1] == f"hot:r{number}"


def test_what_no_phase_tells_is_unaccounted():
    started = CommandStart(0, 0, 0, 80.0, "restore", "", {"a_ms": 30.0, "unaccounted_ms": 50.0}, 0)
    assert product_phases(started, 100.0, 0.0) == {
        "a_ms": 30.0,
        "first_answer_ms": 20.0,
        "unaccounted_ms": 50.0,
    }


def test_the_report_of_the_command_is_read(monkeypatch):
    report = {"received_s": 5.0, "ready_ms": 80.0, "route": "restore", "fallback_reason": "",
              "phases": {"a_ms": 1.0}, "fetched_bytes": 9, "container": {"name": "x"}}  # fmt: skip
    seen = {}

    def run(argv, **options):
        seen.update(options, argv=argv)
        return Completed(0, json.dumps(report).encode(), b"")

    monkeypatch.setattr(command, "run", run)
    started = command.start(Path("/r"), STORE, ["restore", "hot:v1"], timeout_s=5)
    assert (started.received_s, started.ready_ms, started.fetched_bytes) == (5.0, 80.0, 9)
    assert seen["argv"][-7:] == [
        "/r",
        "--store",
        STORE.url,
        "--json",
        "restore",
        "hot:v1",
        "--detach",
    ]
    assert seen["env"] == STORE.env


def test_a_refused_command_says_what_it_said(monkeypatch):
    monkeypatch.setattr(command, "run", lambda *_, **__: Completed(4, b"", b"a\nno such image\n"))
    with pytest.raises(CommandRefused, match=r"exit status 4.*no such image"):
        command.start(Path("/r"), STORE, ["run", "x"], timeout_s=5)
