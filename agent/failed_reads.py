"""What was behind a program's EIO: the sentence and the kind of the fill that failed.

A program, or CRIU, whose read of a mounted image fails is told EIO, or is ended by SIGBUS. The fill
worker keeps why, by device and with its time; a start that fails, or a container that ends, later
than that is told with this cause. Containers that share a device share its failures: what is said
is true of the image, not only of the one container. Thread-safe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from agent.records import ContainerRecord
from agent.status import CallCancelled
from hotstart.core.errors import (
    HotstartError,
    IntegrityError,
    NotFound,
    Unavailable,
    Unsupported,
    UserError,
)
from lazyfs.error_roots import error_from_json
from lazyfs.spec import MountSpec
from runtime.container_directory import ContainerDirectory
from runtime.logs import last_lines

Failures = Mapping[str, Mapping[str, Any]]

_CLEAR = (UserError, Unavailable, IntegrityError, Unsupported, CallCancelled)
"""Errors that say themselves what is wrong."""
_NOT_EXECUTED = re.compile(r"exec .*: input/output error")
"""The only line of a container whose program the kernel could not read; runc writes it."""


class ReadsFailed(HotstartError):
    """Files of an image could not be read on this machine; its disk is full, for example."""


class FailedReads:
    """Looks up why reads of mounted images failed."""

    def __init__(self, ask: Callable[[], Failures]) -> None:
        """``ask`` returns the last failure of each device (``FillClient.failures``)."""
        self._ask = ask
        self._not_executed: dict[str, HotstartError] = {}

    def since_start(
        self, record: ContainerRecord, specs: Callable[[], Iterable[MountSpec]]
    ) -> HotstartError | None:
        """Return the last failure of these images' devices since the start began, if any.

        ``specs`` is called if there is any failure at all.
        """
        try:
            known = self._ask()
        except HotstartError:  # no worker, or one of before that keeps none
            return None
        own = {device.device_id for spec in specs() for device in spec.devices} if known else ()
        failures = [one for device, one in known.items() if device in own]
        last = max(failures, key=lambda one: int(one["at_ns"]), default=None)
        if last is None or int(last["at_ns"]) < record.created_ns:
            return None
        return _cause(record, last)

    @contextmanager
    def explaining(
        self, record: ContainerRecord, specs: Callable[[], Iterable[MountSpec]]
    ) -> Iterator[None]:
        """Raise, in place of an error that may come of a failed read, one that says which.

        Its kind is that of the failed read.
        """
        try:
            yield
        except HotstartError as err:
            cause = None if isinstance(err, _CLEAR) else self.since_start(record, specs)
            if cause is None:
                raise
            raise _joined(cause, err) from err

    def reason_of(
        self, record: ContainerRecord, directory: ContainerDirectory, exit_status: int | None
    ) -> str:
        """Return why a container did not end well, if reads failed meanwhile; else nothing."""
        self._not_executed.pop(record.name, None)
        if exit_status == 0:
            return ""
        cause = self.since_start(record, lambda: [held.spec for held in record.mounts])
        if cause is None:
            return ""
        if any(_NOT_EXECUTED.fullmatch(line) for line in last_lines(directory, 1)):
            self._not_executed[record.name] = cause
        return f"{cause}; {cause.hint}" if isinstance(cause, UserError) else str(cause)

    def require_executed(self, name: str) -> None:
        """Raise why the program of an ended container could not be read to be executed."""
        cause = self._not_executed.get(name)
        if cause is not None:
            raise cause


def _cause(record: ContainerRecord, failure: Mapping[str, Any]) -> HotstartError:
    about = f"files of {record.reference} could not be read: "
    cause = error_from_json(failure, ReadsFailed, about=about)
    if isinstance(cause, NotFound | IntegrityError):
        # A blob that is gone makes the image incomplete; what was asked for is there.
        reference = record.reference
        return IntegrityError(f"{cause}; to look at all of it: hotstart verify {reference}")
    return cause


def _joined(cause: HotstartError, err: HotstartError) -> HotstartError:
    text = f"{cause}; so this failed: {err}"
    return type(cause)(text, cause.hint) if isinstance(cause, UserError) else type(cause)(text)
