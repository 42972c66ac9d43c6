"""Waits are counted by length, for as long as the worker lives, and added up for a mount."""

import json
import math
from dataclasses import replace
from pathlib import Path

from hotstart.core.digest import Digest
from hotstart.store.descriptor import Descriptor
from lazyfs.device_counters import KEPT_WAITS, WAIT_BOUNDS_MS, DeviceCounters
from lazyfs.mount_stats import MountStats
from lazyfs.spec import DeviceSpec, MountSpec


def counts(counters):
    return {bound: count for bound, count in counters.to_json()["waits"] if count}


def test_a_wait_is_counted_at_the_first_bound_that_it_does_not_exceed():
    counters = DeviceCounters()
    for wait_ms in (0.0, 1.0, 1.1, 2.5, 99.9, 100_000.0, 100_000.1):
        counters.waited(wait_ms)
    assert counts(counters) == {1: 2, 2.5: 2, 100: 1, 100_000: 1, None: 1}


def test_no_wait_is_forgotten():
    counters = DeviceCounters()
    for _ in range(KEPT_WAITS + 10):
        counters.waited(3.0)
    assert counts(counters) == {5: KEPT_WAITS + 10}
    assert counters.to_json()["stalled_ms"] == 3.0 * (KEPT_WAITS + 10)


def test_bounds_ascend_from_a_local_fetch_to_a_readers_patience():
    assert list(WAIT_BOUNDS_MS) == sorted(set(WAIT_BOUNDS_MS))
    assert WAIT_BOUNDS_MS[0] <= 1
    assert WAIT_BOUNDS_MS[-1] >= 90_000


def spec_of(*names):
    devices = tuple(
        DeviceSpec(
            100 + n, Descriptor("application/x", Digest.of(name), 1), 1, Digest.of(b"h"), "s"
        )
        for n, name in enumerate(names)
    )
    return MountSpec("a" * 64, Descriptor("application/x", Digest.of(b"b"), 1), devices, "s")


def told(counters):
    """Counters as a client of the worker gets them."""
    return {"bytes_local": 4096, **json.loads(json.dumps(counters.to_json()))}


def test_a_mount_adds_up_the_waits_of_its_devices():
    spec = spec_of(b"1", b"2")
    first, second = DeviceCounters(), DeviceCounters(requests=3, quarantined=1)
    first.waited(4.0)
    second.waited(4.0)
    second.waited(1e6)
    ids = [device.device_id for device in spec.devices]
    devices = dict(zip(ids, (told(first), told(second)), strict=True))
    stats = MountStats.of(spec, Path("/m"), 1, devices)
    assert {bound: count for bound, count in stats.fault_waits if count} == {5.0: 2, math.inf: 1}
    assert len(stats.fault_waits) == len(WAIT_BOUNDS_MS) + 1
    assert (stats.requests, stats.quarantined, stats.bytes_total) == (3, 1, 201)


def test_without_counters_a_mount_has_its_size():
    stats = MountStats.of(spec_of(b"1", b"2"), Path("/m"), 2, {})
    assert (stats.bytes_total, stats.bytes_local, stats.fault_waits) == (201, 0, ())


def test_a_worker_that_counts_no_waits_is_understood():
    spec = spec_of(b"1")
    older = {name: v for name, v in told(DeviceCounters(faults=7)).items() if name != "waits"}
    stats = MountStats.of(spec, Path("/m"), 1, {spec.devices[0].device_id: older})
    assert replace(stats, fault_waits=()) == stats
    assert stats.faults == 7
