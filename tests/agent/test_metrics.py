"""What Prometheus is told: by conventional names, of those mounts that are there, their counts.

The output is read by the parsers of Prometheus' own client.
"""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from agent.metrics import NodeCollector
from agent.shown_mounts import ShownMount
from lazyfs.mount_stats import MountStats
from tests.agent.observations import mount, observation, stats

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
COUNTED = {
    "bytes_total": "hotstart_mount_size_bytes",
    "bytes_local": "hotstart_mount_local_bytes",
    "bytes_fetched": "hotstart_mount_fetched_bytes_total",
    "bytes_used": "hotstart_mount_used_bytes_total",
    "bytes_prefetched": "hotstart_mount_prefetched_bytes_total",
    "bytes_prefetched_used": "hotstart_mount_prefetched_used_bytes_total",
    "faults": "hotstart_mount_faults_total",
    "misses": "hotstart_mount_misses_total",
    "errors": "hotstart_mount_errors_total",
    "requests": "hotstart_mount_store_requests_total",
    "retries": "hotstart_mount_retries_total",
    "mismatches": "hotstart_mount_mismatches_total",
    "quarantined": "hotstart_mount_quarantined_total",
    "users": "hotstart_mount_users",
}
"""Numbers of a mount and the samples that have them."""
HISTOGRAM = "hotstart_mount_fault_wait_seconds"


def registry_of(seen):
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: seen, "1.2.3"))
    return registry


def scrape(seen):
    """Families by name, as Prometheus reads them; the OpenMetrics parser refuses more."""
    registry = registry_of(seen)
    list(openmetrics_parser.text_string_to_metric_families(
        openmetrics.generate_latest(registry).decode()
    ))  # fmt: skip
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(seen):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in scrape(seen).values()
        for sample in family.samples
    }


def values(seen, name):
    """Values of one name by the values of its labels."""
    return {
        tuple(value for _, value in labels): value
        for (sample, labels), value in samples(seen).items()
        if sample == name
    }


FAMILIES = list(scrape(observation(mount())).values())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_name_follows_the_conventions(family):
    assert re.fullmatch(r"hotstart(_[a-z]+)+", family.name)
    words = family.name.split("_")
    assert not {"ms", "milliseconds", "us", "minutes", "kib", "mib", "percent"} & set(words)
    assert not {"bytes", "seconds"} & set(words[:-1])  # a unit comes last; _total is no part here
    assert family.type in ("gauge", "counter", "histogram")
    assert re.fullmatch(r"[A-Z].+\.", family.documentation)
    reserved = {"total", "count", "sum", "bucket", "created"}
    assert not reserved & set(words)
    for sample in family.samples:
        assert sample.name.endswith("_total") == (family.type == "counter")
        assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
        assert set(sample.labels) <= {"version", "filler", "worker", "reference", "digest", "le"}


@pytest.mark.parametrize("number", COUNTED)
def test_a_mounts_numbers_are_told(number):
    seen = observation(mount())
    assert values(seen, COUNTED[number]) == {("app:v1",): getattr(stats(), number)}


def test_every_number_of_a_mount_is_told_in_base_units():
    otherwise = {"manifest", "path", "fault_waits", "fault_median_ms", "fault_p99_ms", "stalled_ms"}
    assert {field.name for field in fields(MountStats)} == otherwise | set(COUNTED)
    for number, sample in COUNTED.items():
        assert ("_bytes" in sample) == number.startswith("bytes_")


def test_what_was_prefetched_in_vain_is_a_gauge_since_it_may_be_used_yet():
    told = stats()
    unused = told.bytes_prefetched - told.bytes_prefetched_used
    (family,) = [one for one in FAMILIES if one.name == "hotstart_mount_prefetched_unused_bytes"]
    assert (family.type, family.samples[0].value) == ("gauge", unused)


def test_waits_are_a_histogram_in_seconds():
    seen = observation(mount())
    assert values(seen, f"{HISTOGRAM}_bucket") == {
        ("0.001", "app:v1"): 3,
        ("0.0025", "app:v1"): 3,
        ("10.0", "app:v1"): 5,
        ("+Inf", "app:v1"): 6,
    }
    assert values(seen, f"{HISTOGRAM}_count") == {("app:v1",): 6}
    assert values(seen, f"{HISTOGRAM}_sum") == {("app:v1",): 25.0005}


def test_a_worker_that_counts_no_waits_leaves_the_rest_as_it_is():
    older = ShownMount(replace(stats(), fault_waits=()), "app:v1", "/mnt")
    seen = observation(older)
    assert values(seen, f"{HISTOGRAM}_count") == {}
    assert values(seen, "hotstart_mount_faults_total") == {("app:v1",): stats().faults}


def test_keeper_and_workers_are_told():
    seen = observation()
    assert values(seen, "hotstart_build_info") == {("1.2.3",): 1}
    assert values(seen, "hotstart_filler_info") == {("fanotify",): 1}
    assert values(seen, "hotstart_keeper_restarts_total") == {(): 2}
    assert values(seen, "hotstart_worker_restarts_total") == {("fill",): 3, ("page",): 0}


def test_without_a_worker_its_counts_are_absent_and_the_rest_is_told():
    seen = observation(mount(), fill_worker_up=False)
    assert values(seen, "hotstart_fill_worker_up") == {(): 0}
    assert values(seen, "hotstart_mount_size_bytes") == {("app:v1",): stats().bytes_total}
    told = {name for name, _ in samples(seen) if name.startswith("hotstart_mount_")}
    assert told == {"hotstart_mount_size_bytes", "hotstart_mount_users"}
    assert values(observation(), "hotstart_fill_worker_up") == {(): 1}


def test_without_a_keeper_nothing_is_told_of_its_workers():
    seen = observation(keeper_up=False, workers={})
    assert values(seen, "hotstart_keeper_up") == {(): 0}
    assert values(seen, "hotstart_worker_restarts_total") == {}


def test_a_mount_that_is_gone_takes_its_series_along():
    looks = [observation(mount(), mount("other:v1", manifest="b" * 64)), observation(mount())]
    collector = NodeCollector(lambda: looks.pop(0), "1")
    told = [
        {
            sample.labels.get("reference")
            for family in collector.collect()
            for sample in family.samples
        }
        for _ in range(2)
    ]
    assert told == [{None, "app:v1", "other:v1"}, {None, "app:v1"}]


def test_an_image_at_two_places_is_one_series():
    seen = observation(mount(target="/one"), mount(target="/two"))
    assert list(values(seen, "hotstart_mount_users")) == [("app:v1",)]
    assert values(seen, "hotstart_mounts") == {(): 1}


def test_two_images_of_one_name_and_an_image_without_are_told_apart_by_digest():
    seen = observation(
        mount(), mount(manifest="b" * 64), mount("", manifest="c" * 64), mount("x:v1", first=5)
    )
    assert set(values(seen, "hotstart_mount_users")) == {
        (f"sha256:{'a' * 12}", "app:v1"),
        (f"sha256:{'b' * 12}", "app:v1"),
        (f"sha256:{'c' * 12}", ""),
        ("x:v1",),
    }


def test_a_reference_may_have_any_characters():
    odd = 's3://bucket/"quoted"\\and\nmore'
    assert list(values(observation(mount(odd)), "hotstart_mount_users")) == [(odd,)]


def test_a_registry_knows_the_names_without_a_look_at_the_node():
    def look():
        raise AssertionError("looked")

    registry = CollectorRegistry()
    registry.register(NodeCollector(look, "1"))
    described = {name for name in registry._names_to_collectors if name.startswith("hotstart")}
    assert {family.name for family in FAMILIES} <= described


def test_the_documentation_lists_every_name_with_its_type_and_no_other():
    rows = re.findall(r"^\| (`hotstart_.*?) \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    listed = {(name, kind) for names, kind in rows for name in re.findall(r"`(\w+)`", names)}
    assert listed == {
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type)
        for family in FAMILIES
    }
