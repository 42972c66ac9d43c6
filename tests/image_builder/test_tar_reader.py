"""Tar archives of every dialect are read to the byte, damaged ones are refused with a sentence."""

import io
import tarfile
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.errors import UserError
from hotstart.core.run import run
from image_builder.archive_file import open_archive
from image_builder.errors import LimitExceeded, SourceInvalid
from image_builder.limits import Limits
from image_builder.pax import GlobalRecords, Records
from image_builder.tar_headers import pax_time_ns
from image_builder.tar_reader import read_members, safe_path
from tests.image_builder.archives import layer, member
from tests.image_builder.rich_tree import ACL


def read(tmp_path, content, limits=None, *, end_required=True):
    path = tmp_path / "layer.tar"
    path.write_bytes(content)
    with ExitStack() as stack:
        archive = open_archive(str(path), stack)
        limits = limits or Limits()
        return [(m, data(m)) for m in read_members(archive, limits, end_required=end_required)]


def data(entry):
    if entry.content is None:
        return None
    buffer = bytearray(b"\xaa" * entry.content.size)
    entry.content.read_into(0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_large_numbers_are_read(tmp_path, form):
    name = "d/" * 60 + "n" * 250
    content = layer(member(name, content=b"x" * 700, uid=3_000_000_000, gid=70_000), form=form)
    ((entry, found),) = read(tmp_path, content)
    assert entry.name.decode() == name
    assert (entry.uid, entry.gid, found) == (3_000_000_000, 70_000, b"x" * 700)


def test_old_names_with_a_prefix_are_joined(tmp_path):
    name = "p" * 90 + "/" + "n" * 90
    ((entry, _),) = read(tmp_path, layer(member(name), form=tarfile.USTAR_FORMAT))
    assert entry.name.decode() == name


def test_names_that_are_not_text_are_kept(tmp_path):
    info = tarfile.TarInfo(b"\xff\xfe".decode("utf-8", "surrogateescape"))
    ((entry, _),) = read(tmp_path, layer((info, b""), form=tarfile.GNU_FORMAT))
    assert entry.name == b"\xff\xfe"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"-1.25", -1_250_000_000),
        (b"4102444800.000000001", 4_102_444_800_000_000_001),
        (b"1.0000000019", 1_000_000_001),
        (b"-0.0000000001", -1),
    ],
)
def test_pax_times_keep_nanoseconds(text, expected):
    assert pax_time_ns(text, "mtime") == expected


def test_attributes_of_three_dialects_are_kept(tmp_path):
    headers = {
        "SCHILY.xattr.user.a": "text",
        "LIBARCHIVE.xattr.user.b%20c": "AAH/",
        "SCHILY.acl.access": "user::rw-,user:lisa:r--:1234,group::r--,mask::rw-,other::r--",
        "SCHILY.xattr.security.selinux": "label of the host",
    }
    ((entry, _),) = read(tmp_path, layer(member("a", pax_headers=headers)))
    assert dict(entry.xattrs) == {
        b"user.a": b"text",
        b"user.b c": b"\0\x01\xff",
        b"system.posix_acl_access": ACL,
    }


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar_are_read(tmp_path, form):
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        for number in range(60):
            file.seek(number * 100_000)
            file.write(b"%d" % number * 3000)
        file.truncate(7_000_000)
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    run(["tar", *options, "-S", "-C", str(tmp_path), "-cf", str(tmp_path / "s.tar"), "sparse"])
    ((entry, found),) = read(tmp_path, (tmp_path / "s.tar").read_bytes())
    assert entry.name == b"sparse"
    assert found == source.read_bytes()
    assert sum(span.length for span in entry.content.data_spans()) < 1_000_000


@pytest.mark.parametrize("keep", [100, 512, 900, 1024, 1300])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    content = layer(member("a", content=b"x" * 700), member("b", content=b"y" * 700))
    with pytest.raises(SourceInvalid, match=r"truncated|damaged"):
        read(tmp_path, content[:keep])


def test_an_archive_without_its_end_is_refused_unless_a_digest_vouches_for_it(tmp_path):
    content = layer(member("a", content=b"x" * 512))[:1024]
    with pytest.raises(SourceInvalid, match="no end mark"):
        read(tmp_path, content)
    assert len(read(tmp_path, content, end_required=False)) == 1


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(SourceInvalid, match="not a tar archive"):
        read(tmp_path, b"\x7fELF" + bytes(2000))


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    content = bytearray(layer(member("a"), member("b")))
    content[512 + 5] ^= 1
    with pytest.raises(SourceInvalid, match="checksum"):
        read(tmp_path, bytes(content))


def header(kind, size):
    info = tarfile.TarInfo("bomb")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_header_that_declares_gigabytes_is_refused_before_it_is_read(tmp_path, kind):
    with pytest.raises(LimitExceeded, match="extended header of 4294967296 bytes"):
        read(tmp_path, header(kind, 1 << 32) + bytes(2048))


def test_a_file_that_declares_more_than_the_archive_holds_is_refused(tmp_path):
    with pytest.raises(SourceInvalid, match="truncated"):
        read(tmp_path, header(b"0", 1 << 40) + bytes(2048))


def test_a_sparse_file_that_declares_exabytes_is_refused(tmp_path):
    records = {"GNU.sparse.size": str(1 << 60), "GNU.sparse.map": "0,0"}
    with pytest.raises(LimitExceeded, match="size of bomb"):
        read(tmp_path, layer(member("bomb", pax_headers=records)))


def global_header(records):
    """Return a ``g`` header with the given records, a multiple of 512 bytes."""
    return tarfile.TarInfo.create_pax_global_header(records)


def test_global_records_hold_for_later_members_without_own_ones(tmp_path):
    records = {"uid": "7", "mtime": "1.5", "comment": "a commit"}
    members = layer(member("a"), member("b", pax_headers={"mtime": "2.5"}))
    first, second = (entry for entry, _ in read(tmp_path, global_header(records) + members))
    assert (first.uid, first.mtime_ns) == (7, 1_500_000_000)
    assert (second.uid, second.mtime_ns) == (7, 2_500_000_000)


@pytest.mark.parametrize(
    "key",
    [
        "SCHILY.xattr.user.a",
        "LIBARCHIVE.xattr.user.a",
        "SCHILY.acl.access",
        "GNU.sparse.map",
    ],
)
def test_global_records_of_what_one_file_has_are_refused(tmp_path, key):
    with pytest.raises(SourceInvalid, match="global PAX header with"):
        read(tmp_path, global_header({key: "1"}) + layer(member("a")))


def test_what_a_member_costs_does_not_grow_with_global_records():
    """A header of 3 MB made each member cost 10 MB and 0.4 s; thousands of them, more and more."""
    records = GlobalRecords()
    for number in range(30):
        names = (f"unknown.{number}.{index}" for index in range(100))
        records.add(Records([(name, b"x" * 10) for name in names] + [("uid", b"1")]))
    assert records.under(Records([("path", b"a")])).all == [("uid", b"1"), ("path", b"a")]


def test_too_many_entries_are_refused(tmp_path):
    content = layer(*(member(f"n{number}", kind=tarfile.FIFOTYPE) for number in range(20)))
    with pytest.raises(LimitExceeded, match="number of entries"):
        read(tmp_path, content, Limits(entries=10))


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(SourceInvalid, match="unknown type"):
        read(tmp_path, header(b"M", 0) + bytes(1024))


@pytest.mark.parametrize("name", [b"a\0b", b"x" * 256, b"y/" * 3000])
def test_names_that_no_file_system_takes_are_refused(name):
    with pytest.raises(UserError):
        safe_path(name, "archive", Limits())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2047), st.integers(0, 255), st.integers(0, 2048))
def test_damage_gives_members_or_a_sentence_and_nothing_else(tmp_path_factory, at, value, cut):
    tmp_path = tmp_path_factory.getbasetemp()
    records = {"SCHILY.xattr.user.a": "1", "mtime": "1.5"}
    content = bytearray(layer(member("a", content=b"x" * 600, pax_headers=records), member("b")))
    content[at] = value
    out = io.BytesIO(content[: len(content) - cut])
    with suppress(UserError):
        members = read(tmp_path, out.getvalue())
        assert all(len(content or b"") <= len(out.getvalue()) for _, content in members)
