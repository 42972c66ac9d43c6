"""Proof that a snapshot is stateless: a cold start gives the same golden answers.

The image is started once more, apart from the world (a network with a loopback alone, nothing
published), asked what the frozen process was asked, in the same order, and ended. Everything made
here is gone afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hotstart.core.phases import Phases
from hotstart.kernel.cgroup import Group
from hotstart.store.stack import Store
from runtime.accounts import user_of
from runtime.bundle import read_config
from runtime.capture import Subject
from runtime.cold_start import ColdStarter
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.containers import tear_down
from runtime.loaded_image import LoadedImage, image_of
from runtime.network import NetworkPool
from runtime.rehearsal import ExpectedGolden, ask
from runtime.runc import Programs, Runc
from snapshotter.golden import compare


def started_as(subject: Subject, image: LoadedImage) -> ContainerSpec:
    """Return the subject's spec with what its process was started as.

    A restored container's own spec says nothing of that: the process was in the snapshot.
    """
    process = read_config(subject.directory)["process"]
    entrypoint = (image.config.get("config") or {}).get("Entrypoint") or ()
    return replace(
        subject.spec,
        argv=tuple(process["args"][len(entrypoint) :]),
        env=tuple(process["env"]),
        workdir=process["cwd"],
        user=user_of(process),
        hostname=subject.spec.hostname or subject.spec.name,
    )


class ColdProof:
    """Fits ``capture.ProveStateless``; ``scratch`` is ROOT/tmp."""

    def __init__(
        self,
        starter: ColdStarter,
        networks: NetworkPool,
        scratch: Path,
        *,
        programs: Programs,
        cgroup_parent: Group,
        store_of: Callable[[Subject], Store],
    ) -> None:
        self._starter = starter
        self._networks = networks
        self._scratch = scratch
        self._programs = programs
        self._cgroup_parent = cgroup_parent
        self._store_of = store_of

    def __call__(self, subject: Subject, expected: Sequence[ExpectedGolden], /) -> str | None:
        """Return how a cold start answers differently, or None. Raises what a start raises."""
        store = self._store_of(subject)
        image = image_of(store, subject.image_reference, subject.image)
        with ExitStack() as undo:
            self._scratch.mkdir(parents=True, exist_ok=True)
            directory = ContainerDirectory(self._scratch / f"proof-{secrets.token_hex(4)}")
            undo.callback(directory.remove)
            directory.create()
            network = self._networks.isolated()
            undo.callback(self._networks.release, network)
            spec = replace(started_as(subject, image), name=directory.name, ports=())
            started = self._starter.start(
                image, spec, directory, Phases(), store=store, network=network
            )
            undo.callback(started.mount.release)
            runc = Runc(self._programs, directory)
            group = self._cgroup_parent.child(directory.name)
            undo.callback(tear_down, directory, runc, group)
            for golden in expected:
                answer = ask(golden.request, directory, runc, network)
                difference = compare(golden.request.expect, golden.answer, answer)
                if difference is not None:
                    return difference
        return None
