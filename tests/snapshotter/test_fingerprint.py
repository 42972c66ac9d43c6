"""Host fingerprints: what refuses a restore, and what doesn't."""

from dataclasses import replace

import pytest

from snapshotter.fingerprint import FingerprintInvalid, HostFingerprint, collect

HOST = HostFingerprint(
    architecture="x86_64",
    page_bytes=4096,
    cpu_vendor="AuthenticAMD",
    cpu_model="AMD EPYC",
    cpu_flags=("avx", "avx2", "sse4_2"),
    kernel="6.18.44",
    cgroup_mode="hybrid",
    criu="4.2.1",
    runc="1.1.5",
    memory_bytes=24 << 30,
)


def test_the_host_of_capture_has_no_reason_against():
    assert HOST.reasons_against(HOST, needed_bytes=1 << 30) == ()


def test_a_host_with_more_features_and_newer_software_has_no_reason_against():
    here = replace(
        HOST, cpu_flags=(*HOST.cpu_flags, "avx512f"), kernel="7.0.1", criu="4.10", runc="1.3.6"
    )
    assert HOST.reasons_against(here) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "aarch64"}, "this host is aarch64"),
        ({"page_bytes": 65536}, "with 65536"),
        ({"cpu_vendor": "GenuineIntel"}, "this one is of GenuineIntel"),
        ({"cpu_flags": ("avx", "sse4_2")}, "this host lacks: avx2"),
        ({"kernel": "6.12.1"}, "older: 6.12.1"),
        ({"criu": "4.1.1"}, "older: 4.1.1"),
        ({"memory_bytes": 1 << 20}, "this host has 1048576"),
    ],
)
def test_a_host_that_lacks_something_is_refused_by_name(change, reason):
    (found,) = HOST.reasons_against(replace(HOST, **change), needed_bytes=1 << 30)
    assert reason in found


def test_every_reason_is_told_at_once():
    here = replace(HOST, cpu_flags=(), kernel="5.15", criu="3.17")
    assert len(HOST.reasons_against(here)) == 3


def test_a_fingerprint_survives_its_json_form():
    assert HostFingerprint.from_json(HOST.to_json()) == HOST


@pytest.mark.parametrize("value", [{}, {"cpu_flags": 1}, {**HOST.to_json(), "more": 1}])
def test_another_shape_is_refused(value):
    with pytest.raises(FingerprintInvalid):
        HostFingerprint.from_json(value)


def test_this_host_can_restore_what_it_makes():
    here = collect(cgroup_mode="hybrid", criu="4.2.1", runc="1.1.5")
    assert here.memory_bytes > 0
    assert here.cpu_flags
    assert here.reasons_against(here) == ()


def test_only_flags_that_every_cpu_has_count(tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "vendor_id : X\nmodel name : Y\nflags : avx hypervisor fma\n\nflags : avx hypervisor\n"
    )
    (tmp_path / "meminfo").write_text("MemTotal:       1024 kB\n")
    found = collect(cgroup_mode="v2", criu="4.2", runc="1.1", proc=tmp_path)
    assert (found.cpu_flags, found.memory_bytes) == (("avx",), 1 << 20)
