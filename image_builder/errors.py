"""What can be wrong with a source or with an image that somebody asks for.

All are the caller's to repair, except a digest mismatch, which is core's ``DigestMismatch``.
"""

from __future__ import annotations

from hotstart.core.errors import IntegrityError, UserError


def show(path: bytes) -> str:
    """Return ``path`` for a message: printable, bounded, with escapes for other bytes."""
    text = path[:200].decode("utf-8", "backslashreplace")
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return printable + ("..." if len(path) > 200 else "")


SAVE_AGAIN = "save or fetch it again"
READ_AS_ROOT = "check that it is there, and that this user may read it"


class SourceInvalid(UserError):
    """The source is not what it should be: not readable, not an archive, hostile or truncated."""

    def __init__(self, source: str, problem: str, hint: str = SAVE_AGAIN) -> None:
        super().__init__(f"{source}: {problem}", hint)
        self.source = source
        self.problem = problem


class SourceDamaged(IntegrityError):
    """The source's bytes are not what their format promises, so something happened to them."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}; get or save it anew")
        self.source = source
        self.problem = problem


class SourceChanged(UserError):
    """A file changed between being listed and being read, so the image would hold neither state."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source}: changed while it was being read",
            "build from a tree that nothing writes to, such as a copy or a file system snapshot",
        )
        self.source = source


class LimitExceeded(UserError):
    """The source is larger than the limits of this build allow."""

    def __init__(self, source: str, what: str, limit: int) -> None:
        super().__init__(
            f"{source}: {what} exceeds the limit of {limit}",
            "if it can be trusted, build it from Python with larger Limits (image_builder.limits)",
        )
        self.source = source
        self.limit = limit


class NotRepresentable(UserError):
    """A file has an attribute that an EROFS image cannot hold."""

    def __init__(self, path: bytes, problem: str) -> None:
        super().__init__(f"{show(path)}: {problem}", "change or remove the file before building")
        self.path = path


class TreeTooLarge(UserError):
    """There are more files, or longer names and attributes, than one image may have."""

    def __init__(self, files: int, size: int) -> None:
        super().__init__(
            f"the metadata of {files} files takes {size} bytes, more than an image may have",
            "build several images from parts of the tree",
        )
