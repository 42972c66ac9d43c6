"""Digests name exact bytes."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.digest import Digest, DigestMismatch
from hotstart.core.errors import IntegrityError, UserError

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_is_sha256_in_oci_spelling():
    assert str(Digest.of(b"")) == f"sha256:{EMPTY}"
    assert Digest.of(memoryview(bytearray(b"abc"))).hex == hashlib.sha256(b"abc").hexdigest()


@settings(derandomize=True)
@given(st.binary(max_size=200))
def test_a_digest_survives_its_own_text(content):
    assert Digest.parse(str(Digest.of(content))) == Digest.of(content)


@pytest.mark.parametrize(
    "text",
    ["", EMPTY, "sha256:", f"sha256:{EMPTY.upper()}", f"sha256:{EMPTY}\n", f"md5:{EMPTY}",
     f"sha256:{EMPTY[:-1]}", "sha256:../../etc/passwd"],
)  # fmt: skip
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(UserError):
        Digest.parse(text)


def test_other_bytes_are_an_integrity_error_that_names_both():
    with pytest.raises(DigestMismatch) as caught:
        Digest.of(b"right").check(b"wrong", "blob x")
    assert isinstance(caught.value, IntegrityError)
    assert str(caught.value).startswith("blob x: ")
    assert caught.value.actual == str(Digest.of(b"wrong"))
    assert caught.value.expected == str(Digest.of(b"right"))
    Digest.of(b"right").check(b"right", "blob x")
