"""Writes a container's bundle: config.json, made from a spec, an image's config and this host.

The root file system must be mounted: names of users are looked up in it. The file is replaced
atomically. ``exec_process`` derives a further process from a bundle that exists.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hotstart.core.errors import NotFound
from hotstart.kernel.cgroup import hierarchies
from runtime.accounts import Account, numeric_account, resolve_user
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.oci_spec import (
    HostSide,
    Process,
    merge_environment,
    process_config,
    resolve_process,
    runtime_config,
)

_OPEN_FILES = (65_536, 1_048_576)


def write_bundle(
    directory: ContainerDirectory,
    spec: ContainerSpec,
    image_config: Mapping[str, Any],
    *,
    netns: Path,
    cgroup: str,
    criu_config: Path | None = None,
    look_up_user: bool = True,
) -> Process:
    """Write config.json and return the process it starts.

    Without ``look_up_user`` a user given in numbers is taken as it is: snapshots name it so, and
    nothing is read of a root file system whose pages may have to be fetched first.

    Raises ImageWithoutCommand, NotFound for a volume whose source is missing, UserError for an
    unknown user.
    """
    _check_volumes(spec)
    process = resolve_process(spec, image_config)
    account = None if look_up_user else numeric_account(process.user)
    account = account or resolve_user(directory.rootfs, process.user)
    host = HostSide(
        rootfs=str(directory.rootfs),
        dev=str(directory.dev),
        shm=str(directory.shm),
        netns=str(netns),
        cgroup=cgroup,
        open_files=open_files_limit(),
        swap_limit=_can_limit_swap(),
        criu_config=str(criu_config) if criu_config else None,
    )
    write_config(directory, runtime_config(spec, process, account, host))
    return process


def write_config(directory: ContainerDirectory, config: Mapping[str, Any]) -> None:
    """Replace config.json atomically; only root may read it (it holds the environment)."""
    staged = directory.config.with_suffix(".staged")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
        file.write("\n")
    staged.rename(directory.config)


def read_config(directory: ContainerDirectory) -> dict[str, Any]:
    """Return config.json. Raises NotFound if the container has none."""
    try:
        return dict(json.loads(directory.config.read_bytes()))
    except FileNotFoundError as err:
        raise NotFound(f"{directory.name}: there is no bundle") from err


def exec_process(
    directory: ContainerDirectory,
    argv: Sequence[str],
    *,
    env: Sequence[str] = (),
    workdir: str | None = None,
    user: str | None = None,
) -> dict[str, Any]:
    """Return the ``process`` object of a further program: as the first one, but for what is given.

    Raises UserError for a user that the container does not have.
    """
    first = read_config(directory)["process"]
    if user is None:
        who = first["user"]
        account = Account(who["uid"], who["gid"], tuple(who.get("additionalGids", ())))
        inherited = first["env"]
    else:
        account = resolve_user(directory.rootfs, user)
        inherited = merge_environment(first["env"], (f"HOME={account.home}",))
    process = Process(tuple(argv), tuple(inherited), first["cwd"], "", "SIGTERM")
    process = replace(
        process, env=merge_environment(process.env, env), workdir=workdir or process.workdir
    )
    limit = next(r for r in first["rlimits"] if r["type"] == "RLIMIT_NOFILE")
    return process_config(process, account, (limit["soft"], limit["hard"]))


def open_files_limit() -> tuple[int, int]:
    """Return soft and hard limit for a container, never above our own hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _OPEN_FILES
    return min(_OPEN_FILES[0], hard), min(_OPEN_FILES[1], hard)


def _check_volumes(spec: ContainerSpec) -> None:
    for volume in spec.volumes:
        if not os.path.exists(volume.host):
            raise NotFound(
                f"{spec.name}: volume source {volume.host} does not exist", "create it first"
            )


def _can_limit_swap() -> bool:
    """Version 1 has the file only with swap accounting; version 2 always can."""
    hosts = hierarchies()
    root = hosts.of_controller("memory")
    if root is None:
        return False
    return root == hosts.v2 or (root / "memory.memsw.limit_in_bytes").exists()
