"""A small node that keeps what it was asked and answers from memory. No kernel, no processes."""

import threading

from agent.values import (
    AgentStatus,
    ContainerView,
    LogPiece,
    MountView,
    PullReport,
    SnapshotReport,
    StartReport,
)
from hotstart.core.errors import Conflict, NotFound
from hotstart.core.progress import Progress
from runtime.container_spec import PortMapping

DIGEST = "sha256:" + "a" * 64


def view(name, **changes):
    values = {
        "name": name,
        "state": "running",
        "reference": "app:v1",
        "digest": DIGEST,
        "argv": ("/bin/app",),
        "pid": 7,
        "exit_status": None,
        "reason": "",
        "created_ns": 1,
        "finished_ns": 0,
        "route": "cold",
        "address": "10.0.0.2",
        "ports": (PortMapping(8080, 80),),
        "ready": True,
    }
    return ContainerView(**{**values, **changes})


class FakeNode:
    """Containers are names in a dict. ``slow`` runs wait until they are cancelled."""

    def __init__(self):
        self.running = {}
        self.asked = []
        self.undone = threading.Event()
        self.begun = threading.Event()

    def _find(self, name):
        if name not in self.running:
            raise NotFound(f"no container {name}", "see hotstart ps")
        return self.running[name]

    def run(self, store_url, reference, *, spec, no_snapshot, background_fill, call):
        self.asked.append(("run", store_url, reference, spec, no_snapshot, background_fill))
        if reference == "slow:v1":
            gone = threading.Event()
            call.on_cancel(gone.set)
            self.begun.set()
            try:
                assert gone.wait(20), "nobody cancelled it"
                call.check()
            finally:
                self.undone.set()
        if spec.name in self.running:
            raise Conflict(f"{spec.name} is taken", "choose another name")
        call.update(Progress("mount", 1, 2))
        call.notify("a restore could not be had")
        self.running[spec.name] = view(spec.name, reference=reference)
        return StartReport(
            container=self.running[spec.name],
            route="cold",
            ready_ms=12.5,
            phases={"mount_ms": 4.0, "unaccounted_ms": 8.5},
            marks={"started": 3.0},
            fetched_bytes=99,
            fallback_reason="other CPU",
            received_s=call.started_s,
        )

    def restore(self, store_url, reference, **wanted):
        call = wanted.pop("call")
        self.asked.append(("restore", store_url, reference, wanted))
        spec = wanted["spec"]
        return self.run(
            store_url, reference, spec=spec, no_snapshot=False, background_fill=True, call=call
        )

    def snapshot(self, store_url, container, **wanted):
        wanted.pop("call").update(Progress("dump", 1, 1, finished=True))
        self.asked.append(("snapshot", store_url, container, wanted))
        self._find(container)
        return SnapshotReport(
            wanted["reference"], DIGEST, "rehearsed", True, 10, 5, 1.5, 2.5, {"dump_ms": 1.0}, "why"
        )

    def mount(self, store_url, reference, *, target, filler, read_ahead_kib, call):
        return MountView(target, reference, DIGEST, filler or "fanotify", 1, 100, read_ahead_kib)

    def umount(self, target):
        self.asked.append(("umount", target))

    def mounts(self):
        numbers = {"stalled_ms": 1.5, "requests": 3, "quarantined": 1}
        return [MountView("/mnt", "app:v1", DIGEST, "fuse", 2, 100, 50, **numbers)]

    def pull(self, store_url, reference, *, working_set, call):
        return PullReport(DIGEST, 10 if working_set else 100, 50, 3.5)

    def exec(self, spec, *, stdin, output, call):
        self._find(spec.container)
        output("stderr", b"begun")
        for piece in stdin:
            output("stdout", piece.upper())
        return len(spec.argv)

    def logs(self, container, *, follow, tail, alive):
        self._find(container)
        return iter([LogPiece("stdout", b"one\n", 1), LogPiece("stderr", b"two\n", 2)])

    def stop(self, container, *, grace_s):
        self.asked.append(("stop", grace_s))
        self._find(container)
        self.running[container] = view(container, state="stopped", exit_status=143, pid=0)
        return self.running[container]

    def wait(self, container, *, alive):
        return self._find(container)

    def remove(self, container):
        self._find(container)
        del self.running[container]

    def containers(self):
        return list(self.running.values())

    def status(self):
        return AgentStatus(
            "1", "/root", 7, 1.5, "fuse", len(self.running), 1, metrics_url="http://h:1/metrics"
        )

    def end_everything(self):
        count = len(self.running)
        self.running.clear()
        return count
