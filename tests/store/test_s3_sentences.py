"""What obstore says of a failed request, as a sentence for people."""

import pytest
from obstore.exceptions import GenericError

from hotstart.store.blob_store import StoreDenied, StoreUnavailable
from hotstart.store.s3_errors import store_error

START = "Generic S3 error: Error performing list request: Error performing GET "


@pytest.mark.parametrize("length", [1, 400])
def test_a_refused_listing_is_a_denial_however_long_its_address_is(length):
    prefix = "p" * length
    answer = "Server returned non-2xx status code: 403 Forbidden: <?xml version"
    found = store_error(
        "s3://b", GenericError(f"{START}http://h/b?prefix={prefix} in 7ms - {answer}")
    )
    assert isinstance(found, StoreDenied)
    assert str(found) == "s3://b: access denied: GET http://h/b: 403 Forbidden"


def test_a_server_that_does_not_answer_is_named():
    text = f"{START}http://h:1/b?list-type=2 in 1ms - HTTP error: error sending request"
    found = store_error("s3://b", GenericError(text))
    assert isinstance(found, StoreUnavailable)
    assert str(found) == "s3://b: GET http://h:1/b: the server does not answer"


def test_any_other_text_stays_as_it_is():
    assert str(store_error("s3://b", GenericError("odd\nmore"))) == "s3://b: odd"
