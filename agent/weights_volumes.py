"""Weights of a container: a bucket's URL in a volume becomes the path of its mount.

The mount is the container's, like that of its image: held in its record, so that the next agent
takes it up again, and let go when the container ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from agent.records import HeldMount
from lazyfs.cache import Cache
from lazyfs.spec import MountSpec
from runtime.container_spec import ContainerSpec, Volume
from runtime.image_access import Images, Mounted
from runtime.weights import READ_AHEAD_KIB, load_weights, tell_skipped


@dataclass(frozen=True, slots=True)
class MountedWeights:
    """A spec whose volumes are all paths, and the mounts behind those that were URLs."""

    spec: ContainerSpec
    held: tuple[HeldMount, ...]
    mounts: tuple[Mounted, ...]

    @property
    def specs(self) -> tuple[MountSpec, ...]:
        """What is mounted."""
        return tuple(held.spec for held in self.held)


class WeightsVolumes:
    """Mounts the weights of containers of one node."""

    def __init__(self, images: Images, cache: Cache) -> None:
        self._images = images
        self._cache = cache

    @contextmanager
    def mounted(self, spec: ContainerSpec, tell: Callable[[str], None]) -> Iterator[MountedWeights]:
        """Mount what ``spec`` names; let go again unless the block ends well.

        ``tell`` hears of keys that are left out. Raises what listing and mounting raise.
        """
        with ExitStack() as undo:
            held: list[HeldMount] = []
            mounts: list[Mounted] = []
            volumes: list[Volume] = []
            for volume in spec.volumes:
                if not volume.is_weights:
                    volumes.append(volume)
                    continue
                weights = load_weights(volume.host, self._cache)
                tell_skipped(weights, tell)
                mount = self._images.mount(weights.spec, read_ahead_kib=READ_AHEAD_KIB)
                undo.callback(mount.release)
                held.append(HeldMount(weights.spec, READ_AHEAD_KIB))
                mounts.append(mount)
                volumes.append(replace(volume, host=str(mount.path)))
            resolved = replace(spec, volumes=tuple(volumes))
            yield MountedWeights(resolved, tuple(held), tuple(mounts))
            undo.pop_all()
