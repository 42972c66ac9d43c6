"""The workloads: for each, the measurements of one round, one for each way to get at the files.

A measurement is named ``workload/link/path`` and gives one sample, whose ``ready_ms`` is the time
of the workload and whose ``phases`` hold further figures. What was read is compared with the
source in every sample, after the clock has stopped; a difference makes the sample a wrong one.
Nothing is written back while something is measured: os.sync() comes before each clock.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import obstore
from blake3 import blake3
from obstore.exceptions import BaseError

from bench.fs import reads
from bench.fs.file_systems import FileSystem
from bench.fs.interpreter import Loaded
from bench.fs.raw_client import fetch_object, s5cmd_object
from bench.fs.source import PACKAGES, RANDOM, SEQUENTIAL, WEIGHTS, walked
from bench.fs.stage import Client, Scene, Stage
from bench.samples import Sample, percentile
from hotstart.core.errors import Unavailable

PLAIN_BUCKET = "plain"
WARM_READS = 4

Outcome = tuple[float, bool, Mapping[str, float]]
"""Milliseconds, whether what was read was right, further figures."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One way to do one workload; see bench.rounds.MeasuredPath."""

    name: str
    run: Callable[[], Outcome]

    def measure(self, round_number: int) -> Sample:
        """Do it once. Raises HotstartError or OSError where that fails."""
        os.sync()
        try:
            ms, right, figures = self.run()
        except BaseError as err:  # of the object store's client; one sample fails, not the run
            raise Unavailable(f"{self.name}: {err}") from err
        return Sample(
            path=self.name,
            round=round_number,
            ready_ms=ms,
            wall_ms=ms,
            phases=figures,
            answer_ok=right,
            problem="" if right else "what was read is not what the source has",
        )


class Workloads:
    """Makes the measurements of one round."""

    def __init__(self, scene: Scene, stage: Stage, reference: Loaded) -> None:
        """``reference``: the checksums of the weights, loaded from the source."""
        self._scene = scene
        self._stage = stage
        self._reference = reference

    def of(self, workload: str) -> list[Measurement]:
        """Return the measurements of a workload, in the order of even rounds."""
        return [
            Measurement(f"{workload}/{link}/{name}", run) for link, name, run in self._all(workload)
        ]

    def _all(self, workload: str) -> Iterator[tuple[str, str, Callable[[], Outcome]]]:
        by_system: dict[str, Callable[[FileSystem], Outcome]] = {
            "first-4k": self._first,
            "sequential": self._sequential,
            "mmap-random": partial(self._faults, count=self._scene.sizes.cold_faults),
            "walk": self._walk,
            "import": self._import,
            "safetensors": self._load,
            "warm-read": self._warm_read,
            "walk-warm": partial(self._walk, times=2),
            "import-warm": partial(self._import, times=2),
            "mmap-warm": partial(self._faults, count=10 * self._scene.sizes.local_faults, times=2),
            "mmap-local": self._local_faults,
        }
        is_local = workload.startswith(("warm", "walk-warm", "import-warm", "mmap-warm"))
        for system in self._scene.systems:
            if system.link == "link" and (is_local or workload == "mmap-local"):
                continue  # all is here: the link plays no part
            yield system.link, system.name, partial(by_system[workload], system)
        if not is_local:
            for client in self._scene.clients:
                for name, run in self._of_client(workload, client):
                    yield client.link, name, run

    def _of_client(
        self, workload: str, client: Client
    ) -> Iterator[tuple[str, Callable[[], Outcome]]]:
        if workload == "first-4k":
            yield "raw", partial(self._first_raw, client)
        elif workload == "mmap-random":
            yield "raw", partial(self._faults_raw, client)
        elif workload in ("sequential", "safetensors"):
            name = SEQUENTIAL if workload == "sequential" else WEIGHTS
            fetches: dict[str, Callable[[Path], object]] = {
                "raw": partial(client.raw.fetch, self._scene.image[name]),
                "obstore": partial(self._fetch_plain, client, name),
            }
            if self._scene.s5cmd is not None:
                fetches["s5cmd"] = partial(
                    s5cmd_object, self._scene.s5cmd.path, client.endpoint, f"{PLAIN_BUCKET}/{name}"
                )
            for label, fetch in fetches.items():
                yield label, partial(self._download, name, fetch)

    # What file systems do.

    def _first(self, system: FileSystem) -> Outcome:
        root = self._stage.of(system).root
        names = list(self._scene.source.first)
        if system.link == "local":
            self._scene.cache.drop()
        outcome = self._first_of(names, lambda name: reads.first_page(root / name))
        if system.link == "local":
            self._scene.cache.read_kept()
        return outcome

    def _first_of(self, names: list[str], read: Callable[[str], bytes]) -> Outcome:
        """Every second file only, in an order of chance: no reader may profit of its neighbour."""
        sizes = self._scene.sizes
        chosen = names[::2]
        random.Random(4).shuffle(chosen)  # noqa: S311  # the same in every run
        alone = reads.time_each(chosen[: sizes.first_files], read, 1)
        together = reads.time_each(chosen[sizes.first_files :], read, sizes.readers)
        right = all(
            content == self._scene.source.first[name] for name, _, content in (*alone, *together)
        )
        times = [ms for _, ms, _ in together]
        p50 = percentile([ms for _, ms, _ in alone], 0.5)
        together_p50, together_p99 = percentile(times, 0.5), percentile(times, 0.99)
        figures = {"p50_ms": p50, "busy_p50_ms": together_p50, "busy_p99_ms": together_p99}
        return p50, right, figures

    def _sequential(self, system: FileSystem) -> Outcome:
        self._stage.forget(system)
        path = self._stage.of(system).root / SEQUENTIAL
        ms, digest = reads.read_whole(path)
        return ms, digest == self._scene.source.digests[SEQUENTIAL], {}

    def _warm_read(self, system: FileSystem) -> Outcome:
        standing = self._stage.of(system)
        standing.complete()
        _, digest = reads.read_whole(standing.root / SEQUENTIAL)
        os.sync()
        ms = reads.read_again(standing.root / SEQUENTIAL, WARM_READS)
        return ms, digest == self._scene.source.digests[SEQUENTIAL], {}

    def _faults(self, system: FileSystem, count: int, times: int = 1) -> Outcome:
        if times == 1:
            self._stage.forget(system)
        path = self._stage.of(system).root / RANDOM
        offsets = self._offsets(count)
        ms, digest = 0.0, b""
        for _ in range(times):
            ms, digest = reads.fault_pages(path, offsets)
        return ms, digest == self._pages(offsets), {"each_us": ms * 1e3 / count}

    def _local_faults(self, system: FileSystem) -> Outcome:
        """All is on the disk, nothing in memory."""
        self._stage.of(system).complete()
        self._scene.cache.drop()
        try:
            return self._faults(system, self._scene.sizes.local_faults)
        finally:
            self._scene.cache.read_kept()

    def _walk(self, system: FileSystem, times: int = 1) -> Outcome:
        source = self._scene.source
        name = walked(source.tree) if times == 1 else PACKAGES
        root = self._stage.of(system).root / name
        if times == 1 and system.link == "local":
            self._scene.cache.drop()
        ms, entries = reads.walk(root)
        for _ in range(times - 1):
            ms, entries = reads.walk(root)
        if times == 1 and system.link == "local":
            self._scene.cache.read_kept()
        return ms, entries == source.entries[name], {}

    def _import(self, system: FileSystem, times: int = 1) -> Outcome:
        root = self._stage.of(system).root / PACKAGES
        module = self._scene.source.module
        if times == 1 and system.link == "local":
            self._scene.cache.drop()
            # The interpreter itself is to be warm, as it is for the others.
            self._scene.interpreter.time_import("json", root)
        ms = 0.0
        for _ in range(times):
            ms = self._scene.interpreter.time_import(module, root)
        if times == 1 and system.link == "local":
            self._scene.cache.read_kept()
        return ms, True, {}

    def _load(self, system: FileSystem) -> Outcome:
        self._stage.forget(system)
        loaded = self._scene.interpreter.load(self._stage.of(system).root)
        self._stage.forget(system)
        return loaded.ms, self._is_right(loaded), {}

    def _is_right(self, loaded: Loaded) -> bool:
        return (loaded.sums, loaded.crcs) == (self._reference.sums, self._reference.crcs)

    # What clients do.

    def _first_raw(self, client: Client) -> Outcome:
        image = self._scene.image

        def read(name: str) -> bytes:
            file = image[name]
            chunk = file.table.between(file.span)[0]
            # Random bytes are stored raw, and a file begins with its own chunk or inside one.
            place = max(0, file.span.offset - chunk.device_offset)
            return client.raw.get(file, chunk)[place : place + reads.PAGE]

        return self._first_of(list(self._scene.source.first), read)

    def _faults_raw(self, client: Client) -> Outcome:
        offsets = self._offsets(self._scene.sizes.cold_faults)
        pages = reads.time_each(
            [str(offset) for offset in offsets],
            lambda offset: _range(client, RANDOM, int(offset)),
            1,
        )
        ms = sum(ms for _, ms, _ in pages)
        digest = blake3(b"".join(content for _, _, content in pages)).digest()
        return ms, digest == self._pages(offsets), {"each_us": ms * 1e3 / len(offsets)}

    def _fetch_plain(self, client: Client, name: str, target: Path) -> None:
        size = (self._scene.source.tree / name).stat().st_size
        fetch_object(client.plain, name, size, target, client.raw.tuning)

    def _download(self, name: str, fetch: Callable[[Path], object]) -> Outcome:
        folder = self._scene.scratch / "download"
        folder.mkdir()
        target = folder / name
        try:
            ((_, ms, _),) = reads.time_each([name], lambda _: _nothing(fetch(target)), 1)
            if name == WEIGHTS:
                loaded = self._scene.interpreter.load(folder)
                return ms + loaded.ms, self._is_right(loaded), {"download_ms": ms}
            _, digest = reads.read_whole(target)
            return ms, digest == self._scene.source.digests[name], {}
        finally:
            target.unlink(missing_ok=True)
            folder.rmdir()

    def _offsets(self, count: int) -> list[int]:
        pages = self._scene.sizes.random // reads.PAGE
        draw = random.Random(5)  # noqa: S311  # the same in every run
        return [draw.randrange(pages) * reads.PAGE for _ in range(count)]

    def _pages(self, offsets: list[int]) -> bytes:
        return reads.fault_pages(self._scene.source.tree / RANDOM, offsets)[1]


def _range(client: Client, name: str, offset: int) -> bytes:
    return bytes(obstore.get_range(client.plain, name, start=offset, length=reads.PAGE))


def _nothing(_result: object) -> bytes:
    return b""
