"""Whether the torch that the demo will get is a CPU build: found out at set-up, once.

pip of ``.venv`` is asked what it would install; at most one file of a CPU build's size is
downloaded for the answer. Done before where the demo tree is built already, or where the stamp
beside pip has the answer. Standard library only.
"""

from __future__ import annotations

from pathlib import Path

from bench.workload import requirements, tree
from bench.workload.requirements import CudaBuild


def ensure(checkout: Path, cache: Path | None = None) -> str:
    """Return one line that says which torch it will be. Raises CommandFailed if pip can't tell."""
    built = tree.built_torch(cache or tree.default_cache())
    if built is not None:
        return f"{built}, a CPU build, is in the demo tree"
    stamp = checkout / ".venv/torch-build"
    head = f"{requirements.TORCH}\n"
    if not stamp.is_file() or not stamp.read_text().startswith(head):
        stamp.write_text(head + _answer(str(checkout / ".venv/bin/python")))
    return stamp.read_text().removeprefix(head)


def _answer(python: str) -> str:
    try:
        found = requirements.resolve_alone(requirements.TORCH, python)
    except CudaBuild:
        return f"pip has no CPU build of {requirements.TORCH}: the demo takes Debian's torch"
    return f"{found}, a CPU build, is what pip has for the demo"
