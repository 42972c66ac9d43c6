"""What obstore raises, as the store's errors. Only its text tells most things apart."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from hotstart.store.blob_store import StoreBusy, StoreDenied, StoreMissing, StoreUnavailable

_REQUEST = re.compile(
    r"Error performing ([A-Z]+) ([^\s?]+)\S* (?:in|after) .*? - "
    r"(?:Server returned non-2xx status code: )?(.*?)(?:: <.*)?$"
)
"""What obstore says of a failed request: method, address without its query, what came back."""
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""Refusals that newer credentials may end; AWS answers some of them with 400."""
_BUSY = ("<Code>SlowDown</Code>", "429 Too Many Requests")


class BucketMissing(StoreMissing):
    """The server has no such bucket."""

    def __init__(self, url: str) -> None:
        super().__init__(url, f"the bucket {urlsplit(url).netloc} does not exist")


def says_no_bucket(err: Exception) -> bool:
    """Tell whether what obstore raised for an object is about its whole bucket."""
    return "<Code>NoSuchBucket</Code>" in str(err)


def store_error(url: str, err: Exception) -> StoreDenied | StoreUnavailable:
    """Return the store's error for what obstore raised; absence is the caller's to name."""
    text = str(err).partition("\n")[0]
    asked = _REQUEST.search(text)
    reason = asked.expand(r"\1 \2: \3") if asked else text
    reason = reason.replace("HTTP error: error sending request", "the server does not answer")[:300]
    code = _CODE.search(str(err))
    if _is_denied(err) or (code is not None and code[1] in _CREDENTIAL_CODES):
        return StoreDenied(url, reason if code is None else f"{reason} {code[1]}")
    if any(word in str(err) for word in _BUSY):
        return StoreBusy(url, reason)
    return StoreUnavailable(url, reason)


def may_be_stale(err: Exception) -> bool:
    """Tell whether a refusal may come of credentials that have been replaced meanwhile.

    The answer to a HEAD has no code, so that any refusal may.
    """
    found = _CODE.search(str(err))
    if found is not None:
        return found[1] in _CREDENTIAL_CODES
    return _is_denied(err) or "400 Bad Request" in str(err)


def _is_denied(err: Exception) -> bool:
    # A refused listing is a GenericError to obstore.
    refusal = PermissionDeniedError | UnauthenticatedError
    return isinstance(err, refusal) or "403 Forbidden" in str(err).partition("\n")[0]
