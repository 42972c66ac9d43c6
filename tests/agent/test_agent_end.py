"""An agent that is told to end is gone when it has let its root go, whatever its store does."""

import os
import select

import pytest

from agent import launch
from agent.values import STORE_VARIABLE
from tests.lazyfs.node import wait_until
from tests.store.answering_server import Answer, answering

pytestmark = [pytest.mark.kernel]


def test_an_agent_whose_store_is_away_ends_as_soon_as_it_has_let_its_root_go(tmp_path):
    with answering(Answer(200, stalls=True)) as (endpoint, requests):
        environment = {
            **os.environ,
            STORE_VARIABLE: f"s3://bucket?endpoint={endpoint}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        client, _ = launch.ensure(tmp_path / "root", environment=environment)
        agent = os.pidfd_open(client.status().pid)
        wait_until(lambda: requests)  # it asks a store that will not answer
        client.shutdown(everything=True)
        client.close()
        launch.await_end(tmp_path / "root")
        ended, _, _ = select.select([agent], [], [], 15)
        os.close(agent)
        assert ended
