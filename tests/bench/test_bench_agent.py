"""The benchmark's agents for real: they start, know nothing, and leave nothing."""

import pytest

from bench.bench_agent import AgentUnfit, BenchAgent, remove_container
from bench.product import empty_node
from bench.store_access import StoreAccess
from hotstart.core.errors import Unavailable
from hotstart.kernel.mounts import mounts_below
from tests.requires import requires

pytestmark = [pytest.mark.kernel, requires("root")]

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@pytest.fixture
def store(scratch):
    return StoreAccess(f"file://{scratch}/store", ENVIRONMENT)


def test_an_agent_answers_and_is_gone_with_its_root(scratch, store):
    with BenchAgent(scratch / "a", store) as running:
        assert running.client.status().running == 0
        assert running.node_key.exists()
        remove_container(running.client, "nobody")
    assert not (scratch / "a").exists()
    assert mounts_below(scratch) == []
    with pytest.raises(Unavailable, match="not running"):
        running.client.status()


def test_each_start_on_an_empty_node_gets_a_fresh_root_with_the_same_key(scratch, store):
    with BenchAgent(scratch / "a", store) as first:
        key = first.node_key.read_bytes()
        node = empty_node(scratch / "n", store, first.node_key)
        roots = []
        for _ in range(2):
            with node() as running:
                roots.append(running.root)
                assert running.node_key.read_bytes() == key
                assert running.client.containers() == ()
        assert len(set(roots)) == 2
        assert not any(root.exists() for root in roots)


def test_an_agent_that_cannot_start_is_reported_with_its_last_words(scratch, store):
    (scratch / "a").mkdir()
    with pytest.raises(FileExistsError), BenchAgent(scratch / "a", store):
        pass
    unfit = StoreAccess(store.url, {"PATH": "/nowhere"})
    with pytest.raises(AgentUnfit, match="did not start"), BenchAgent(scratch / "b", unfit):
        pass
    assert not (scratch / "b").exists()
