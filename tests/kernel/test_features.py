"""Probes find what is there, say why something isn't, and leave nothing behind."""

import os
import struct
from pathlib import Path

import pytest

from hotstart.core.errors import Unsupported
from hotstart.kernel import features
from hotstart.kernel.criu_check import (
    CriuUnfit,
    CriuVersion,
    errors_in,
    require_fit,
    self_test,
    version,
)
from hotstart.kernel.features import PROBES, Probe, empty_erofs_image, probe, probe_one
from hotstart.kernel.mounts import mounts_below
from tests.requires import CRIU, requires


def fake_criu(directory: Path, body: str) -> list[str]:
    program = directory / "criu"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return [str(program)]


@pytest.mark.kernel
def test_probing_leaves_no_file_mount_or_namespace(scratch):
    found = probe(scratch, CRIU)
    assert [feature.name for feature in found] == list(PROBES)
    assert mounts_below(scratch) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.kernel
def test_every_absent_ability_has_a_reason_and_a_need(scratch):
    for feature in probe(scratch, scratch / "no-criu"):
        assert feature.reason
        assert feature.needed_for
    absent = probe_one("criu", scratch, scratch / "no-criu")
    assert not absent.present
    assert "no-criu is not installed" in absent.reason


def test_a_root_that_does_not_exist_is_probed_where_it_would_be_and_not_made(tmp_path):
    root = tmp_path / "not/yet"
    assert probe_one("disk", root, CRIU).present
    assert not (tmp_path / "not").exists()


def test_what_a_probe_raises_becomes_the_reason(tmp_path, monkeypatch):
    def fail(_host):
        raise PermissionError(1, "not permitted here")

    monkeypatch.setitem(PROBES, "veth", Probe(fail, "networks", needs_root=False))
    feature = probe_one("veth", tmp_path, CRIU)
    assert not feature.present
    assert "not permitted here" in feature.reason


def test_without_root_the_probe_asks_for_root(tmp_path, monkeypatch):
    monkeypatch.setattr(features.os, "geteuid", lambda: 1000)
    assert "run as root" in probe_one("overlay", tmp_path, CRIU).reason
    assert "user 1000" in probe_one("root", tmp_path, CRIU).reason


@pytest.mark.kernel
def test_a_cache_on_tmpfs_is_refused_by_name():
    feature = probe_one("cache_file_system", Path("/dev/shm"), CRIU)
    assert not feature.present
    assert "/dev/shm is on tmpfs" in feature.reason
    assert "ext4" in feature.reason


def test_the_smallest_image_has_its_magic_and_one_block():
    image = empty_erofs_image()
    assert len(image) == 4096
    assert struct.unpack_from("<I", image, 1024) == (0xE0F5E1E2,)


@pytest.mark.parametrize(
    ("numbers", "fit"),
    [((4, 1, 1), False), ((4, 2), True), ((4, 2, 1), True), ((5,), True), ((3, 19), False)],
)
def test_criu_is_fit_from_4_2_on(numbers, fit):
    assert CriuVersion(numbers).fit is fit


def test_an_old_criu_is_refused_with_both_versions(tmp_path):
    criu = fake_criu(tmp_path, "echo 'Version: 4.1.1'")
    with pytest.raises(CriuUnfit, match=r"is CRIU 4\.1\.1, Hotstart needs 4\.2"):
        require_fit(criu)


def test_a_program_that_is_no_criu_is_refused(tmp_path):
    with pytest.raises(CriuUnfit, match="no version"):
        version(fake_criu(tmp_path, "echo hello"))
    with pytest.raises(Unsupported, match="is not installed"):
        version([str(tmp_path / "absent")])


def test_errors_of_a_log_are_found_but_for_those_after_which_criu_goes_on():
    assert errors_in("(00.01) fine\n") == []
    log = (
        "(00.01) fine\n"
        "(00.01) Error (criu/rlimit.c:38): rlimit: Can't setup RLIMIT_NOFILE for self: no\n"
        "(00.02) Error (criu/sk-inet.c:10): inet: no socket\n"
        "(00.03) Error (criu/cr-dump.c:1): Dumping FAILED.\n"
    )
    assert errors_in(log) == ["inet: no socket", "Dumping FAILED."]


@pytest.mark.kernel
@requires("criu")
def test_the_self_test_dumps_and_restores_a_listening_process(scratch):
    assert self_test([str(CRIU)], scratch) > 0
    assert list(scratch.iterdir()) == []


@pytest.mark.soak
@pytest.mark.kernel
@requires("criu")
def test_two_hundred_dumps_and_restores_in_a_row_leave_nothing(scratch):
    for _ in range(200):
        assert self_test([str(CRIU)], scratch) > 0
    assert list(scratch.iterdir()) == []


@pytest.mark.kernel
def test_a_criu_that_cannot_dump_is_refused_with_its_own_reason(scratch):
    work = scratch / "work"
    work.mkdir()
    body = 'echo "(00.1) Error (sockets.c:1): no SO_PASSCRED" > "$3/dump.log"; exit 1'
    with pytest.raises(CriuUnfit) as caught:
        self_test(fake_criu(scratch, body), work)
    assert "cannot dump a process with a listening TCP socket" in str(caught.value)
    assert "no SO_PASSCRED" in str(caught.value)
    assert os.uname().release in str(caught.value)
    assert list(work.iterdir()) == []
