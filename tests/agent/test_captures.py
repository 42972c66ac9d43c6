"""What a capture says of the snapshot: why a cold start may not take its place."""

import pytest

from agent.captures import NotedProof, stateful_reason
from hotstart.core.errors import Unavailable
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
