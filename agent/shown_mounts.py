"""Which mounts are shown, by which names: what `hotstart mounts` and the metrics have in common.

A mount target has the reference that it was mounted by. An image that only containers use has
theirs, and none while it is captured or pulled: nobody has named it. What nobody uses is mounted
because it is warm, and is not shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from agent.state import MountRow
from agent.values import MountView
from lazyfs.mount_stats import MountStats

_NOT_TOLD = ("manifest", "fault_waits")
"""A MountView has the digest in its place, and quantiles of the waits."""


@dataclass(frozen=True, slots=True)
class ShownMount:
    """One mount; without ``reference`` nobody has named it, without ``target`` it has no path."""

    stats: MountStats
    reference: str
    target: str

    @property
    def digest(self) -> str:
        """Digest of the image's manifest."""
        return f"sha256:{self.stats.manifest}"


def shown_mounts(
    stats: Iterable[MountStats], rows: Iterable[MountRow], names: Mapping[str, str]
) -> list[ShownMount]:
    """Return mount targets, then images that only containers use, which ``names`` names."""
    by_digest = {f"sha256:{one.manifest}": one for one in stats}
    targets = [
        ShownMount(by_digest[row.digest], row.reference, row.target)
        for row in rows
        if row.digest in by_digest
    ]
    shown = {mount.digest for mount in targets}
    return targets + [
        ShownMount(one, names.get(digest, ""), "")
        for digest, one in by_digest.items()
        if one.users and digest not in shown
    ]


def view_of(mount: ShownMount, filler: str) -> MountView:
    """Return what callers of the agent are told of a mount."""
    counted = {name: v for name, v in asdict(mount.stats).items() if name not in _NOT_TOLD}
    own = {
        "path": mount.target,
        "reference": mount.reference,
        "digest": mount.digest,
        "filler": filler,
    }
    return MountView(**{**counted, **own})
