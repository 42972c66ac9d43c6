"""The OCI image config that is stored with an image: what the archive says, and the options.

Written anew as canonical JSON, so that it depends on what it says and not on who wrote it. History
and layer digests are left out: the layers they speak of are merged into one tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hotstart.core import canonical_json
from hotstart.core.errors import UserError
from image_builder.errors import SourceInvalid
from image_builder.options import BuildOptions

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Json = Mapping[str, object]

_VARIABLE = re.compile(r"[^=\0]+=[^\0]*", re.DOTALL)
_LISTS = ("Entrypoint", "Cmd", "Env")
_TEXTS = ("User", "WorkingDir", "StopSignal")
_MAPS = ("Labels", "ExposedPorts", "Volumes")


def encode_config(source: Json, options: BuildOptions, *, architecture: str, name: str) -> bytes:
    """Return the config of the image. ``source`` is the archive's config, empty for a directory.

    Raises SourceInvalid for a config of a wrong shape, UserError for options that make no sense.
    """
    given = source.get("config") or {}
    if not isinstance(given, Mapping):
        raise SourceInvalid(name, "the image's config is not an object")
    run: dict[str, object] = {key: _texts(given, key, name) for key in _LISTS}
    run.update({key: _text(given, key, name) for key in _TEXTS})
    run.update({key: _map(given, key, name) for key in _MAPS})
    if options.command is not None:
        run["Cmd"], run["Entrypoint"] = list(options.command), []
    run["Env"] = _environment(_texts(given, "Env", name), options.environment, name)
    if options.workdir is not None:
        if not options.workdir.startswith("/"):
            raise UserError(f"--workdir {options.workdir!r} is not absolute", "begin it with /")
        run["WorkingDir"] = options.workdir
    if options.user is not None:
        run["User"] = options.user
    document = {
        "architecture": _text(source, "architecture", name) or architecture,
        "os": _text(source, "os", name) or "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return canonical_json.encode(document)


def _environment(given: Sequence[str], added: Sequence[str], name: str) -> list[str]:
    """Return the variables, later ones in the place of earlier ones, with a PATH."""
    values: dict[str, str] = {}
    for word in given:
        if not _VARIABLE.fullmatch(word):
            raise SourceInvalid(
                name,
                f"Env of the image's config has {word[:80]!r}, which is not NAME=value",
                "repair or remove it where the image is made (ENV in a Dockerfile)",
            )
    for word in added:
        if not _VARIABLE.fullmatch(word):
            raise UserError(f"--env {word!r} is not NAME=value", "write --env NAME=value")
    for word in (*given, *added):
        values[word.partition("=")[0]] = word
    values.setdefault("PATH", DEFAULT_PATH)
    return list(values.values())


def _text(given: Json, key: str, name: str) -> str:
    value = given.get(key) or ""
    if not isinstance(value, str):
        raise SourceInvalid(name, f"{key} of the image's config is not a text")
    return value


def _texts(given: Json, key: str, name: str) -> list[str]:
    value = given.get(key) or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise SourceInvalid(name, f"{key} of the image's config is not a list of texts")
    return list(value)


def _map(given: Json, key: str, name: str) -> dict[str, object]:
    value = given.get(key) or {}
    if not isinstance(value, dict):
        raise SourceInvalid(name, f"{key} of the image's config is not an object")
    return dict(value)
