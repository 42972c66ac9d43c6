"""The global flags: which store, which root, text or JSON. They work before and after COMMAND.

Precedence: flag after the command, flag before it, HOTSTART_STORE and HOTSTART_ROOT, the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/hotstart")


@dataclass(slots=True)
class Settings:
    """What the global flags said. Filled while the command line is parsed, read-only after."""

    store: str | None = None
    root_dir: str | None = None
    json: bool = False

    @property
    def root(self) -> Path:
        """Directory of the agent's state, absolute."""
        return Path(self.root_dir).absolute() if self.root_dir else DEFAULT_ROOT

    @property
    def store_url(self) -> str:
        """URL of the store; a bare path becomes an absolute ``file://`` URL."""
        if not self.store:
            return f"file://{self.root}/store"
        if "://" in self.store:
            return self.store
        return f"file://{Path(self.store).absolute()}"
