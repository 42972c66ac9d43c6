"""What a capture says of the snapshot: why a cold start may not take its place."""

from types import SimpleNamespace

import pytest

from agent import captures
from agent.captures import Captures, NotedProof, stateful_reason
from agent.long_call import LongCall
from hotstart.core.errors import Unavailable
from runtime.capture import NotEnded
from runtime.container_spec import ContainerSpec, Volume

PLAIN = ContainerSpec(name="web")
WITH_VOLUME = ContainerSpec(name="web", volumes=(Volume("/host", "/data"),))


@pytest.mark.parametrize(
    ("spec", "statefulness", "difference", "reason"),
    [
        (PLAIN, "stateful", None, "declared"),
        (PLAIN, "prove", None, "no golden request"),
        (WITH_VOLUME, "prove", None, "volumes"),
        (PLAIN, "prove", "status 500, expected 200", "status 500, expected 200"),
    ],
)
def test_why_a_snapshot_is_stateful_is_said(spec, statefulness, difference, reason):
    assert reason in stateful_reason(spec, statefulness, difference)


def test_a_proof_notes_how_the_cold_start_answered():
    proof = NotedProof(lambda subject, expected: "another status")
    assert proof(None, ()) == proof.difference == "another status"


def test_a_proof_that_could_not_be_had_is_a_reason_too():
    def fail(subject, expected):
        raise Unavailable("store away")

    proof = NotedProof(fail)
    with pytest.raises(Unavailable):
        proof(None, ())
    assert proof.difference == "store away"


def test_a_snapshot_whose_container_could_not_be_ended_gets_its_name(monkeypatch):
    captured, named = SimpleNamespace(), []

    def capture(*_, **__):
        raise NotEnded("web", "no control group", captured)

    monkeypatch.setattr(captures, "name_stateless", lambda *words: named.append(words[2]))
    monkeypatch.setattr(Captures, "_subject", lambda *_: None)
    containers = SimpleNamespace(record=lambda name: None)
    node = Captures(containers, lambda _: SimpleNamespace(capture=capture), None, lambda url: None)
    with pytest.raises(NotEnded):
        node.snapshot(
            "file:///s",
            "web",
            reference="warm:v1",
            goldens=(),
            statefulness="stateless",
            leave_running=False,
            call=LongCall(),
        )
    assert named == [captured]
