"""Mount time and memory against the size of the image: files and bytes, each on its own axis.

The images are built once into a local store. For each round a new agent finds their bootstraps in
its cache and nothing else; a small image is mounted first, unmeasured, so that what a daemon does
once in its life is done. Data is one sparse file. Needs root.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.bench_agent import BenchAgent
from bench.fs.options import Sizes
from bench.samples import Sample
from bench.store_access import StoreAccess
from hotstart.core.errors import HotstartError
from hotstart.core.progress import NullSink, Progress, ProgressSink
from hotstart.store.stack import open_store
from image_builder.build import build
from lazyfs.cache import Cache

MIB = 1 << 20
_IN_FOLDER = 1000


@dataclass(frozen=True, slots=True)
class MountImage:
    """An image that is only mounted: so many files, so many bytes of data."""

    files: int
    data: int

    @property
    def name(self) -> str:
        """Its path's name among the samples."""
        return f"mount/{self.files} files/{self.data / 1e9:g} GB"

    @property
    def reference(self) -> str:
        """Its name in the store."""
        return f"bench/mount:f{self.files}-d{self.data}"


WARM_UP = MountImage(1, 4096)


def images_of(sizes: Sizes) -> list[MountImage]:
    """Return the images: files with little data, data with few files, and most of both."""
    rows = [MountImage(files, sizes.data[0]) for files in sizes.files]
    rows += [MountImage(sizes.files[0], data) for data in sizes.data[1:]]
    return [*rows, MountImage(sizes.files[-1], sizes.data[-1])]


class MountScale:
    """Owns a store with the images and a cache that holds their bootstraps, below ``place``."""

    def __init__(self, place: Path, access_env: StoreAccess, sizes: Sizes) -> None:
        self._place = place
        self._store = open_store(f"file://{place}/store")
        self._access = StoreAccess(self._store.url, access_env.env)
        self.images = images_of(sizes)

    def build(self, progress: ProgressSink) -> None:
        """Build every image and keep its bootstrap."""
        cache = Cache(self._place / "bootstraps")
        for number, image in enumerate([WARM_UP, *self.images], start=1):
            tree = self._place / "tree"
            _make_tree(tree, image)
            built = build(str(tree), self._store, reference=image.reference, progress=NullSink())
            shutil.rmtree(tree)
            cache.bootstrap(built.manifest.bootstrap, self._store.blobs)
            total = len(self.images) + 1
            progress.update(Progress(image.name, number, total, "images", finished=True))

    def measure(self, round_number: int) -> list[Sample]:
        """Mount every image once, with a new agent that has the bootstraps."""
        root = self._place / "a"
        samples = []
        with BenchAgent(root, self._access) as running:
            self._give_bootstraps(root)
            for image in (WARM_UP, *self._order(round_number)):
                sample = self._mount(running, image, round_number)
                if image is not WARM_UP:
                    samples.append(sample)
        return samples

    def _order(self, round_number: int) -> Sequence[MountImage]:
        return self.images if round_number % 2 == 0 else self.images[::-1]

    def _give_bootstraps(self, root: Path) -> None:
        target = root / "cache/bootstraps"
        target.mkdir(parents=True, exist_ok=True)
        for path in (self._place / "bootstraps").rglob("*.erofs"):
            shutil.copy2(path, target / path.name)
        os.sync()

    def _mount(self, running: BenchAgent, image: MountImage, round_number: int) -> Sample:
        target = self._place / "m"
        target.mkdir(exist_ok=True)
        before = _memory(running.root)
        started_s = time.perf_counter()
        try:
            running.client.mount(self._store.url, image.reference, target)
        except HotstartError as err:
            return Sample(image.name, round_number, float("nan"), 0.0, {}, 0, False, str(err))
        ms = (time.perf_counter() - started_s) * 1e3
        grown = _memory(running.root) - before
        right = (target / "data").stat().st_size == image.data
        running.client.umount(target)
        figures = {"grown_mib": grown / MIB, "memory_mib": (before + grown) / MIB}
        return Sample(image.name, round_number, ms, ms, figures, 0, right)


def _memory(root: Path) -> int:
    """Return the proportional memory (PSS) of every process that serves ``root``."""
    total = 0
    for process in _processes(root):
        with suppress(psutil.NoSuchProcess):  # one that has just ended holds nothing
            total += process.memory_full_info().pss
    return total


def _processes(root: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word == str(root) or word.startswith(f"{root}/") for word in words):
            yield process


def _make_tree(tree: Path, image: MountImage) -> None:
    tree.mkdir(parents=True)
    with (tree / "data").open("wb") as file:
        file.write(os.urandom(min(MIB, image.data)))
        file.truncate(image.data)
    for number in range(image.files - 1):
        folder = tree / f"d{number // _IN_FOLDER:03d}"
        if number % _IN_FOLDER == 0:
            folder.mkdir()
        (folder / f"f{number:06d}").write_bytes(b"%d\n" % number)
