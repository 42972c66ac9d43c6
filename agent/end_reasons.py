"""Why a container ended, where that isn't plain from its exit status."""

from __future__ import annotations

from agent.failed_reads import FailedReads
from agent.records import ContainerRecord
from hotstart.kernel.cgroup import Group
from runtime.container_directory import ContainerDirectory
from runtime.containers import OUT_OF_MEMORY, ContainerStatus, out_of_memory
from snapshotter.condemn import failure_of


def reason_of(
    record: ContainerRecord,
    directory: ContainerDirectory,
    status: ContainerStatus,
    *,
    group: Group,
    reads: FailedReads,
) -> str:
    """Return why an ended container ended, or nothing; before anything of it is let go."""
    condemned = failure_of(directory.criu) or record.reason
    if not condemned and out_of_memory(group):
        condemned = OUT_OF_MEMORY
    return condemned or reads.reason_of(record, directory, status.exit_status)
