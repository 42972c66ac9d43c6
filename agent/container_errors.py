"""What is wrong with a container that was asked for, or with its start."""

from __future__ import annotations

from agent.status import CallCancelled
from hotstart.core.errors import Conflict, NotFound, Unavailable

STOPPED_AT_START = "it was stopped while it started"


class NoSuchContainer(NotFound):
    """No container of this root has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no container {name}", "see hotstart ps")


class NameTaken(Conflict):
    """A container of this name is there and has not ended."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a container {name} runs already", "stop it, or choose another --name")


class CloneRefused(Conflict):
    """A replica of the snapshot runs already, and two of one frozen process are not safe."""

    def __init__(self, reference: str, running: str) -> None:
        super().__init__(
            f"{reference}: a replica of it runs already ({running}), and both would go on with the "
            "same random numbers and names",
            "stop it, or add --allow-clones",
        )


class StoppedAtStart(CallCancelled):
    """The container was stopped before its start was over."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: {STOPPED_AT_START}; nothing of it is left")


class StartGoesOn(Unavailable):
    """A start that was stopped is busy with something that cannot be interrupted."""

    def __init__(self, name: str, waited_s: float) -> None:
        super().__init__(
            f"{name}: its start has not ended within {waited_s:g} s; once what it waits for is "
            "over, it ends and nothing of it is left"
        )
