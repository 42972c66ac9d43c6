"""The fill worker: ``python -m lazyfs.worker --run-dir DIR``, started and kept alive by the keeper.

Takes over every device set that the keeper holds (what a killed predecessor left is answered
first), then serves RUN_DIR/fill.sock until SIGTERM, and then ends at once: readers wait for its
successor, which must not wait for a store that is away. May be killed at any instant. It never
maps, opens or imports anything below the mounts it fills.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from hotstart.core.log import configure, get_logger
from hotstart.kernel.keeper_client import KeeperClient
from hotstart.kernel.privileges import (
    CAP_DAC_READ_SEARCH,
    CAP_SYS_ADMIN,
    keep_capabilities,
    may,
)
from hotstart.store.stack import preload_client
from lazyfs.control_server import ControlServer, Operation
from lazyfs.crash_points import Passage, crash_at, no_crash, slow_at
from lazyfs.descriptor_room import raise_limit
from lazyfs.fill_service import FillService
from lazyfs.patience import patience_s
from lazyfs.pulls import Pulls
from lazyfs.room import SOCKET as ROOM_SOCKET
from lazyfs.room import Room

log = get_logger(__name__)

SOCKET = "fill.sock"
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another wants it: a reader waits for one that
has only to answer it, behind as many as fetch ahead. The default is ten times as long."""
FUSE_WANTED = "fuse-wanted"
"""A file in RUN_DIR: a device has been served by FUSE here, which takes CAP_SYS_ADMIN."""


def operations(service: FillService) -> dict[str, Operation]:
    """Return what can be asked on the control socket."""

    def nothing(call: Operation) -> Operation:
        return lambda request: (call(request), None)[1]

    return {
        "ping": lambda _: "fill",
        "attach": nothing(lambda r: service.attach(r["name"], r["token"])),
        "detach": nothing(lambda r: service.detach(r["name"], r["token"])),
        "mounted": nothing(lambda r: service.mounted(r["name"])),
        "prefetch": lambda r: service.prefetch(r["devices"], r["plan"], r.get("job")),
        "stop": nothing(lambda r: service.stop(r["job"])),
        "job": lambda r: service.job(r["job"], r.get("wait_s", 0.0)),
        "record_start": nothing(lambda r: service.record_start(r["devices"])),
        "record_stop": lambda r: service.record_stop(r["names"]),
        "warm": lambda r: service.warm(r["store"]),
        "lift_quarantine": lambda _: service.lift_quarantine(),
        "failures": lambda _: service.failures(),
        "stats": lambda _: service.stats(),
    }


def drop_privileges(run_dir: Path) -> None:
    """Keep what reading a store of any owner takes, and nothing else: this process reads what
    others wrote. Descriptors that need more were opened by the agent; only FUSE mounts are our own.
    """
    kept = {CAP_DAC_READ_SEARCH}
    if (run_dir / FUSE_WANTED).exists():
        kept.add(CAP_SYS_ADMIN)
    keep_capabilities(kept)


def _before_fuse(run_dir: Path) -> None:
    """End for a successor that may mount; whoever asked asks that one again (fill_client.py)."""
    if may(CAP_SYS_ADMIN):
        return
    (run_dir / FUSE_WANTED).touch()
    log.info("fill_worker_replaced", reason="FUSE has to be mounted")
    os._exit(0)


def _passage(crash: str, slow: str) -> Passage:
    """Return what is done at named points: nothing, except in tests."""
    crashes = crash_at(crash) if crash else no_crash
    waits = slow_at(slow) if slow else no_crash
    if crashes is no_crash:
        return waits
    return lambda point: (waits(point), crashes(point))[1]


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM; 0 then."""
    parser = argparse.ArgumentParser(prog="lazyfs.worker")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--patience-s", type=float, default=patience_s(os.environ))
    parser.add_argument("--crash-at", default="", help="named crash point, for tests")
    parser.add_argument("--slow-at", default="", help="named point to wait at, for tests")
    options = parser.parse_args(argv)
    configure()
    sys.setswitchinterval(SWITCH_S)
    raise_limit()  # an event costs a descriptor while it waits
    drop_privileges(options.run_dir)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with KeeperClient(options.run_dir / "keeper.sock") as keeper:
        passage = _passage(options.crash_at, options.slow_at)
        service = FillService(
            keeper,
            pulls=Pulls(options.run_dir),
            patience_s=options.patience_s,
            passage=passage,
            room=Room(options.run_dir / ROOM_SOCKET),
            before_fuse=partial(_before_fuse, options.run_dir),
        )
        taken = service.take_over()
        control = ControlServer(options.run_dir / SOCKET, operations(service))
        control.start()
        preload_client("s3://")  # this process has nothing else to do until it is asked
        gc.freeze()  # what lives as long as the process is not looked at again
        log.info("fill_worker_serves", sets=taken)
        stopped.wait()
        control.close()
        service.close()
    return 0


def run_to_end(argv: Sequence[str]) -> NoReturn:
    """End the process with ``main``, whatever other threads are in; a failure is written down.

    An ordinary exit would wait for threads, or let them come back from a store into an interpreter
    that is gone.
    """
    try:
        status = main(argv)
    except Exception:
        traceback.print_exc()
        status = 1
    os._exit(status)


if __name__ == "__main__":
    run_to_end(sys.argv[1:])
