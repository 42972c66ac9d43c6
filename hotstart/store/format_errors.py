"""How reading a stored format fails: a wrong shape, or a version this program does not know.

Each format derives its own ``...Invalid`` from FormatInvalid, beside its parser. Parsers raise
these two kinds and nothing else, whatever bytes they are given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hotstart.core.errors import IntegrityError


class FormatInvalid(IntegrityError):
    """Bytes do not have the shape of their format; ``reason`` says where and what."""

    format_name = "document"

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.format_name}: {reason}")
        self.reason = reason


class FormatVersionUnknown(IntegrityError):
    """A format has a version that this program neither writes nor reads.

    No host lacks anything: it is what is stored that nobody here can read.
    """

    def __init__(self, format_name: str, version: object, known: Sequence[int]) -> None:
        names = " and ".join(str(number) for number in known)
        super().__init__(
            f"{format_name}: version {str(version)[:40]} is unknown (this program reads {names}); "
            "use a newer Hotstart"
        )
        self.format_name = format_name
        self.version = version
        self.known = tuple(known)


def check_version(format_name: str, version: object, known: Sequence[int]) -> None:
    """Raise FormatVersionUnknown unless ``version`` is one of ``known``."""
    if isinstance(version, bool) or version not in known:
        raise FormatVersionUnknown(format_name, version, known)


_MEDIA_TYPE = re.compile(r"(.+)\.v(\d{1,9})(?:\+\w+)?")


def check_media_type(found: str, known: Sequence[str]) -> None:
    """Raise FormatVersionUnknown if ``found`` is of ``known``, but of another version."""
    match = _MEDIA_TYPE.fullmatch(found)
    if match:
        ours = [own for own in map(_MEDIA_TYPE.fullmatch, known) if own and own[1] == match[1]]
        if ours:
            check_version(match[1], int(match[2]), [int(own[2]) for own in ours])
