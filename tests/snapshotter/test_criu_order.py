"""What the front of CRIU is told when a restore goes around runc."""

from itertools import pairwise
from pathlib import Path

from snapshotter.criu_order import Order


def order(**changes):
    fields = {
        "groups": [Path("/g/a/cgroup.procs"), Path("/g/b/cgroup.procs")],
        "network": Path("/run/net"),
        "config": Path("/c/criu.conf"),
        "dump": Path("/dump"),
        "work": Path("/work"),
        "root": Path("/rootfs"),
        "log": "restore.log",
        "pid_file": Path("/c/pid"),
        "binds": {"/dev": "/c/dev", "/data": "/host/a b"},
        "streams": ["pipe:[11]", "/dev/null", "pipe:[13]"],
    }
    return Order(**{**fields, **changes})


def pairs(words, option):
    return [value for name, value in pairwise(words) if name == option]


def test_mounts_and_streams_go_by_the_names_under_which_runc_dumps_them():
    words = order().words()
    assert pairs(words, "--external") == [
        "mnt[/dev/null]:/dev/null",
        "mnt[/dev]:/c/dev",
        "mnt[/data]:/host/a b",
    ]
    assert pairs(words, "--inherit-fd") == [
        "fd[NETWORK]:extRootNetNS",
        "fd[0]:pipe:[11]",
        "fd[2]:pipe:[13]",
    ]


def test_the_file_has_groups_network_and_words_each_ended_by_a_nul(tmp_path):
    text = order().write(tmp_path / "order").read_bytes().decode()
    groups, network, *words = text.removesuffix("\0").split("\0")
    assert groups.split("\n") == ["/g/a/cgroup.procs", "/g/b/cgroup.procs"]
    assert network == "/run/net"
    assert words == order().words()
