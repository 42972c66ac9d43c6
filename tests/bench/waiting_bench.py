"""``hotstart bench cold-start`` whose scenario is an agent with a mount, and then waits for ever.

Run as a program, with the scratch directory as its argument; it says where the agent's root is.
"""

import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.bench_agent import BenchAgent
from bench.store_access import StoreAccess
from cli import bench_cmd, main
from hotstart.store.stack import open_store
from image_builder.build import build


def wait_for_ever(options, _progress):
    """Take the place of ``run_cold_start``, whose tree alone takes minutes to make."""
    with ExitStack() as stack:
        scratch = Path(tempfile.mkdtemp(prefix="hsb-", dir=options.scratch))
        stack.callback(shutil.rmtree, scratch)
        (scratch / "tree").mkdir()
        (scratch / "tree" / "file").write_bytes(bytes(range(256)) * 1000)
        (scratch / "mnt").mkdir()
        store = StoreAccess(f"file://{scratch}/store", options.environment)
        build(str(scratch / "tree"), open_store(store.url), reference="app:v1")
        agent = stack.enter_context(BenchAgent(scratch / "a", store))
        agent.client.mount(store.url, "app:v1", scratch / "mnt")
        print(agent.root, flush=True)
        signal.pause()


if __name__ == "__main__":
    bench_cmd.run_cold_start = wait_for_ever
    main.main(["bench", "cold-start", "--scratch", sys.argv[1]])
