"""Progress bars on a terminal, drawn by rich on stderr. Imported only when there is one."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from cli.output import size
from hotstart.core.progress import Progress


class BarSink:
    """One bar per task. A context manager; the bars vanish when it ends. Takes any thread."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarSink:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def update(self, event: Progress) -> None:
        """Move the bar of a task."""
        amount = amount_of(event)
        if event.task not in self._tasks:
            self._tasks[event.task] = self._bars.add_task(
                event.task, total=event.total, amount=amount
            )
        self._bars.update(
            self._tasks[event.task], completed=event.done, total=event.total, amount=amount
        )


def amount_of(event: Progress) -> str:
    """Return how far a task is, as people read it: ``1.5 MiB of 3.0 MiB``, ``2 of 5 requests``."""
    if event.unit == "bytes":
        return size(event.done) + (f" of {size(event.total)}" if event.total is not None else "")
    total = f" of {event.total}" if event.total is not None else ""
    return f"{event.done}{total} {event.unit}"
