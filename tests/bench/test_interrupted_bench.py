"""A benchmark that is told to end, however it is told, leaves nothing of what it had started."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hotstart.core.run import run
from hotstart.kernel.mounts import mounts_below
from runtime.links import root_id
from tests.bench import waiting_bench
from tests.requires import requires

pytestmark = [pytest.mark.kernel, requires("erofs", "cache_file_system")]

SOURCE = Path(__file__).parents[2]


def processes_of(scratch):
    """Return the command lines that name the directory: agents, keepers, workers, servers."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [words for words in found if any(str(scratch) in word for word in words)]


def has_table(root):
    return f"hotstart_{root_id(root)}" in run(["nft", "list", "tables"]).text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_told_to_end_leaves_nothing(scratch, number):
    argv = [sys.executable, "-m", waiting_bench.__name__, str(scratch)]
    with subprocess.Popen(
        argv, cwd=SOURCE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as bench:
        root = Path(bench.stdout.readline().strip())
        assert has_table(root)
        assert len(processes_of(scratch)) > 2, "bench, agent, keeper and fill worker"
        assert mounts_below(scratch) != []
        bench.send_signal(number)
        _, said = bench.communicate(timeout=60)
    assert (bench.returncode, said.splitlines()[-1]) == (130, "hotstart: interrupted")
    assert processes_of(scratch) == []
    assert mounts_below(scratch) == []
    assert not has_table(root)
    assert list(scratch.iterdir()) == []
