"""Settings, each declared once: its TOML key, environment variable, flag, default, help and unit.

Precedence: flag, environment, file, default. A file is TOML with the keys of SETTINGS at its top
level; the whole of it is checked before any of it is used, and a bad line is named by its number.
Reads no environment and no command line itself: main modules hand both in.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import UserError


class BadSetting(UserError):
    """A setting is unknown or its value can't be; ``source`` says where it stands."""

    def __init__(self, source: str, message: str, hint: str = "") -> None:
        super().__init__(f"{source}: {message}", hint)
        self.source = source


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a person can set. ``parse`` raises ValueError with what would be right."""

    key: str
    default: str
    help: str
    parse: Callable[[str], str]
    unit: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"HOTSTART_{self.key.upper()}"

    @property
    def flag(self) -> str:
        """The command-line flag that sets it."""
        return f"--{self.key.replace('_', '-')}"


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("write a path")
    return str(Path(text).absolute())


def _store(text: str) -> str:
    if "://" not in text:
        return f"file://{_path(text)}"
    if not re.match(r"(file|s3)://.", text):
        raise ValueError("write file:///DIR or s3://BUCKET/PREFIX")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"write one of: {', '.join(words)}")
        return text

    return parse


SETTINGS = (
    Setting("root", "/var/lib/hotstart", "State and cache of one agent.", _path),
    Setting("store", "", "Where images and snapshots are kept; empty: ROOT/store.", _store),
    Setting("criu", "/opt/hotstart/criu/bin/criu", "The CRIU to use, 4.2 or newer.", _path),
    Setting(
        "filler",
        "auto",
        "Who fills lazy mounts; auto takes fanotify where the kernel has it.",
        _one_of("auto", "fanotify", "fuse"),
    ),
    Setting(
        "log_level",
        "INFO",
        "What the agent writes to its log.",
        _one_of("DEBUG", "INFO", "WARNING", "ERROR"),
    ),
)
"""All of them, in the order in which documentation shows them."""

_BY_KEY = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Config:
    """The values that hold, each checked."""

    root: Path
    store: str
    criu: Path
    filler: str
    log_level: str


def load(
    *,
    flags: Mapping[str, str | None] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """Return the configuration; ``flags`` are by key and None where not given.

    Raises BadSetting, naming the flag, the variable or the line of the file.
    """
    from_file = _read(file) if file is not None else {}
    values = {
        setting.key: _value(setting, flags or {}, environment or {}, from_file)
        for setting in SETTINGS
    }
    root = Path(values["root"])
    return Config(
        root=root,
        store=values["store"] or f"file://{root}/store",
        criu=Path(values["criu"]),
        filler=values["filler"],
        log_level=values["log_level"],
    )


def documentation() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield key, variable, flag, default (with unit) and help of each setting."""
    for setting in SETTINGS:
        default = f"{setting.default} {setting.unit}".strip()
        yield setting.key, setting.variable, setting.flag, default, setting.help


def _value(
    setting: Setting,
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    from_file: Mapping[str, tuple[str, str]],
) -> str:
    given = flags.get(setting.key)
    if given is not None:
        return _parsed(setting, given, setting.flag)
    if setting.variable in environment:
        return _parsed(setting, environment[setting.variable], setting.variable)
    if setting.key in from_file:
        source, text = from_file[setting.key]
        return _parsed(setting, text, source)
    return setting.default


def _parsed(setting: Setting, text: str, source: str) -> str:
    try:
        return setting.parse(text)
    except ValueError as err:
        raise BadSetting(source, f"{setting.key} can't be {text[:80]!r}", str(err)) from err


def _read(path: Path) -> dict[str, tuple[str, str]]:
    """Return (source, text) by key. Raises BadSetting for the first line that can't be."""
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, ValueError) as err:
        raise BadSetting(str(path), str(err), "write KEY = VALUE lines as TOML has them") from err
    found: dict[str, tuple[str, str]] = {}
    for key, value in table.items():
        source = f"{path}:{_line_of(text, key)}"
        if key not in _BY_KEY:
            raise BadSetting(source, f"no setting {key!r}", f"known: {', '.join(_BY_KEY)}")
        if not isinstance(value, str):
            raise BadSetting(source, f"{key} is not a text", f'write {key} = "..."')
        found[key] = (source, value)
    for key, (source, value) in found.items():
        _parsed(_BY_KEY[key], value, source)
    return found


def _line_of(text: str, key: str) -> int:
    pattern = re.compile(rf"\s*(\[\[?\s*)?[\"']?{re.escape(key)}\b")
    lines = text.splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)
