"""The end of everything that a node owns."""

from types import SimpleNamespace

import pytest

from agent.node import Node


def test_a_container_whose_stop_breaks_does_not_keep_the_rest_from_ending(tmp_path):
    ended = []

    def stop(name, *, grace_s):
        raise OSError("cgroup.procs")

    containers = SimpleNamespace(running=lambda: ["web"], stop=stop)
    node = Node(tmp_path, environment={})
    node._parts = SimpleNamespace(containers=containers, end=lambda: ended.append(True))
    with pytest.raises(OSError, match=r"cgroup\.procs"):
        node.end_everything()
    assert ended
