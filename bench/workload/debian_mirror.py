"""Where this host gets its Debian packages from, read from apt's own configuration.

Set-up and the demo tree ask for another suite from the mirror that is configured already, so that
a host behind a local mirror needs no further settings and no host name stands in this repository.
Reads deb822 ``*.sources`` and one-line ``*.list`` files; ``mirror+file:`` lists give their first
entry. Changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hotstart.core.errors import Unsupported

DEBIAN_KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
"""Where the package debian-archive-keyring keeps the keys of every supported release."""

_ONE_LINE = re.compile(
    r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)"
)


class MirrorUnknown(Unsupported):
    """apt's configuration names no Debian mirror that another suite could be read from."""


@dataclass(frozen=True, slots=True)
class Source:
    """One suite of one archive, as apt has it configured."""

    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Debian archive and the keyring that its releases are signed with."""

    uri: str
    keyring: Path

    def sources_list(self, suite: str) -> str:
        """Return the deb822 text that gives apt the suite ``suite`` of this mirror."""
        return (
            f"Types: deb\nURIs: {self.uri}\nSuites: {suite}\nComponents: main\n"
            f"Signed-By: {self.keyring}\n"
        )


def configured_mirror(root: Path = Path("/")) -> Mirror:
    """Return the Debian mirror that apt uses below ``root``. Raises MirrorUnknown."""
    apt = root / "etc/apt"
    sources = [source for source in _sources(apt) if "main" in source.components]
    codename = _codename(root / "etc/os-release")
    # A security or backports archive holds one release only, so the plain suite decides.
    for wanted in ({codename}, {"stable", "oldstable", "testing", "unstable", "sid"}):
        for source in sources:
            if source.suite in wanted:
                return Mirror(_resolve(source.uri), _keyring(root))
    raise MirrorUnknown(
        f"{apt}: no entry for the suite {codename!r} with the component main; "
        "name a Debian mirror there, then try again"
    )


def _keyring(root: Path) -> Path:
    for path in DEBIAN_KEYRINGS:
        if (root / path.relative_to("/")).exists():
            return path
    raise MirrorUnknown(f"{DEBIAN_KEYRINGS[0]} is missing; install debian-archive-keyring")


def _codename(os_release: Path) -> str:
    for line in _lines(os_release):
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip().strip('"')
    return "stable"


def _sources(apt: Path) -> Iterator[Source]:
    parts = apt / "sources.list.d"
    for path in sorted(parts.glob("*.sources")):
        yield from _deb822(path)
    for path in [apt / "sources.list", *sorted(parts.glob("*.list"))]:
        yield from _one_line(path)


def _deb822(path: Path) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", "\n".join(_lines(path))):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, components)


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line[:1].isspace() and key:
            fields[key] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            fields[key] = value.strip()
    return fields


def _one_line(path: Path) -> Iterator[Source]:
    for line in _lines(path):
        if match := _ONE_LINE.fullmatch(line.strip()):
            yield Source(match["uri"], match["suite"], tuple(match["components"].split()))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def _resolve(uri: str) -> str:
    """Cloud images name a file that lists mirrors, which debootstrap can't read: take its first."""
    if not uri.startswith("mirror+file:"):
        return uri.rstrip("/")
    listing = Path(uri.removeprefix("mirror+file:").replace("//", "/", 1))
    for line in _lines(listing):
        if line.strip():
            return line.split()[0].rstrip("/")
    raise MirrorUnknown(f"{listing}: lists no mirror; name one there, then try again")
