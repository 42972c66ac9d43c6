"""What a failed test of real things leaves to read: logs below its directory, mounts, the kernel.

All of it lies in the report, so that a failure on another machine can be understood from its text.
"""

from pathlib import Path

from hotstart.core.run import run
from hotstart.kernel.mounts import mounts_below

_FILES = 8
_LINES = 40


def of_failure(directory: Path) -> list[tuple[str, str]]:
    """Return titled sections about a test whose files lie in ``directory``."""
    sections = [(f"{path}", _tail(path)) for path in _logs(directory)]
    mounts = "\n".join(f"{entry.fstype} {entry.target}" for entry in mounts_below(directory))
    sections.append(("mounts", mounts))
    sections.append(("kernel", _kernel_log()))
    return [(title, text) for title, text in sections if text]


def _logs(directory: Path) -> list[Path]:
    found = [path for path in directory.rglob("*") if _is_log(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime)[-_FILES:]


def _is_log(path: Path) -> bool:
    return (path.suffix == ".log" or path.name == "log") and path.is_file()


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LINES:])


def _kernel_log() -> str:
    done = run(["dmesg"], check=False, timeout_s=5)
    return "\n".join(done.text.splitlines()[-15:])
