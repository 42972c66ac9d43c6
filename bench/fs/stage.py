"""What a run measures in. ``Scene``: made once; ``Stage``: file systems mounted for one round."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from obstore.store import S3Store

from bench.fs.file_systems import FileSystem, Standing
from bench.fs.interpreter import Interpreter
from bench.fs.options import MIB, Sizes
from bench.fs.programs import Program
from bench.fs.raw_client import ImageFile, RawClient
from bench.fs.source import Source
from bench.page_cache import PageCache
from hotstart.core.errors import HotstartError, Unavailable
from hotstart.core.log import get_logger

log = get_logger(__name__)

LARGE_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The clients of one link: of the image's packs, and of plain objects."""

    link: str
    endpoint: str
    raw: RawClient
    plain: S3Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that measurements are made from."""

    scratch: Path
    sizes: Sizes
    source: Source
    image: Mapping[str, ImageFile]
    systems: Sequence[FileSystem]
    clients: Sequence[Client]
    s5cmd: Program | None
    interpreter: Interpreter
    cache: PageCache
    """Drops the page cache; keeps the store's data in it."""


class Stage:
    """``with Stage(scene, place) as stage``: each file system mounted, or its error kept."""

    def __init__(self, scene: Scene, place: Path) -> None:
        self._scene = scene
        self._place = place
        self._stack = ExitStack()
        self._standing: dict[tuple[str, str], Standing] = {}
        self._errors: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Stage:
        self._place.mkdir()
        self._stack.callback(shutil.rmtree, self._place)
        try:
            for number, system in enumerate(self._scene.systems):
                self._mount(system, self._place / str(number))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def of(self, system: FileSystem) -> Standing:
        """Return where ``system`` is mounted. Raises Unavailable if it could not be."""
        key = (system.name, system.link)
        if key in self._errors:
            raise Unavailable(self._errors[key])
        return self._standing[key]

    def _mount(self, system: FileSystem, place: Path) -> None:
        key = (system.name, system.link)
        try:
            self._standing[key] = self._stack.enter_context(system.mounted(place))
        except (HotstartError, OSError) as err:
            log.warning("not_mounted", system=system.name, link=system.link, reason=str(err))
            self._errors[key] = str(err)

    def forget(self, system: FileSystem) -> None:
        """Take the large files of a file system and of its cache out of the page cache.

        Their names are known: a search would ask a far store for every name, which a later
        workload measures.
        """
        standing = self.of(system)
        os.sync()
        for name in self._scene.source.digests:
            _forget(standing.root / name)
        for folder, folders, names in os.walk(standing.place):
            folders[:] = [name for name in folders if not os.path.ismount(f"{folder}/{name}")]
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    _forget(path)


def _forget(path: Path) -> None:
    if path.stat().st_size < LARGE_BYTES:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
