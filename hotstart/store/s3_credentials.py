"""The clients of one bucket with the credentials of the moment, renewed when they are refused.

boto3 renews by itself what says when it ends (instance and container roles). What does not say so
(a credentials file that somebody rewrites, a session token in it) is found out by the refusal:
then the whole chain is read again, and if it gives others, whoever was refused asks once more. The
same credentials would be refused again, and are not tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import boto3
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from hotstart.core.log import get_logger
from hotstart.store.s3_errors import may_be_stale

log = get_logger(__name__)

_T = TypeVar("_T")

_LIFE = timedelta(minutes=5)
"""How long credentials are used before boto3 is asked again; it renews them in good time."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that read and that upload; ``keys`` are what they sign with, None: nothing."""

    keys: tuple[str, ...] | None
    reads: S3Store
    uploads: S3Store


class RenewedClients:
    """Clients whose credentials are renewed. Thread-safe.

    ``make`` opens a client with a credential provider, or unsigned without one; its second argument
    tells whether it is for uploads.
    """

    def __init__(
        self,
        session: boto3.Session,
        make: Callable[[Boto3CredentialProvider | None, bool], S3Store],
        url: str,
    ) -> None:
        self._make = make
        self._url = url
        self._lock = threading.Lock()
        self._clients = self._open(session)

    def ask(self, operation: Callable[[Clients], _T]) -> _T:
        """Return what ``operation`` returns; if its credentials were replaced, ask once more."""
        used = self._clients
        try:
            return operation(used)
        except (BaseError, OSError) as err:
            if not may_be_stale(err) or not self._renew(used):
                raise
        return operation(self._clients)

    def _renew(self, used: Clients) -> bool:
        """Read the credentials again; False if they are those that were refused."""
        with self._lock:
            if self._clients is not used:
                return True  # another thread was refused too
            try:
                fresh = self._open(boto3.Session())
            except BotoCoreError as err:
                log.warning("credentials_not_renewed", store=self._url, reason=err)
                return False
            if fresh.keys == used.keys:
                return False
            self._clients = fresh
        log.info("credentials_renewed", store=self._url)
        return True

    def _open(self, session: boto3.Session) -> Clients:
        credentials = session.get_credentials()
        if credentials is None:
            return Clients(None, self._make(None, False), self._make(None, True))
        frozen = credentials.get_frozen_credentials()
        keys = (frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
        provider = Boto3CredentialProvider(session, ttl=_LIFE)
        return Clients(keys, self._make(provider, False), self._make(provider, True))
