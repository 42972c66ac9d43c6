import json
from pathlib import Path

import pytest

from bench import page_cache
from bench.cold_start import document, fetched_shares
from bench.cold_start_options import ORDER, ColdStartOptions
from bench.extras import alternate, largest_files
from bench.page_cache import PageCache
from bench.preparation import golden_request
from bench.question import Question
from bench.rounds import Cold, Warm
from bench.samples import Sample
from hotstart.core.errors import Unavailable, UserError

CRIU = Path("/bin/sh")


def sample(path, fetched=0, **fields):
    return Sample(path=path, round=0, ready_ms=1.0, wall_ms=1.0, fetched_bytes=fetched, **fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"rounds": 0}, "number of rounds"),
        ({"only": frozenset({"cold", "warm-ish"})}, "no such path: warm-ish"),
        ({"criu": Path("/no/criu")}, "there is no CRIU"),
    ],
)
def test_options_that_cannot_be_carried_out_are_refused_before_anything_is_made(fields, words):
    options = ColdStartOptions(**{"environment": {}, "criu": CRIU} | fields)
    with pytest.raises(UserError, match=words):
        options.check()


def test_every_path_is_wanted_unless_some_are_named():
    assert all(ColdStartOptions(environment={}).wants(name) for name in ORDER)
    some = ColdStartOptions(environment={}, only=frozenset({"cold"}))
    assert [name for name in ORDER if some.wants(name)] == ["cold"]


def test_the_document_has_the_promised_keys_and_is_json():
    samples = [sample("restore"), sample("cold")]
    result = document({"kernel": "x"}, {"round_trip_ms": 15}, samples, {"store_bytes": 5})
    assert set(result) == {
        "scenario", "environment", "link", "samples", "summary", "ratios", "extra", "targets",
    }  # fmt: skip
    assert list(result["summary"]) == ["cold", "restore"]
    assert set(result["samples"][0]) == {
        "path", "round", "ready_ms", "wall_ms", "phases", "fetched_bytes", "answer_ok",
    }  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_shares_are_medians_of_good_samples_over_everything_stored():
    samples = [
        sample("restore-empty-node", 10),
        sample("restore-empty-node", 30),
        sample("restore-empty-node", 20),
        sample("restore-empty-node", 90, answer_ok=False),
        sample("pull-and-cold", 100),
    ]
    assert fetched_shares(samples, 200) == {"empty_node_fetched_share": 0.1}
    assert fetched_shares(samples, 0) == {}


class Counted:
    name = "counted"

    def __init__(self, error=None):
        self.starts = 0
        self._error = error

    def measure(self, round_number):
        self.starts += 1
        if self._error is not None:
            raise self._error
        return sample(f"start {self.starts}")


def test_a_warm_path_starts_once_unmeasured_after_each_drop():
    cache, path = PageCache(), Counted()
    warm = Warm(path, cache)
    assert [warm.measure(n).path for n in range(2)] == ["start 2", "start 3"]
    cache.drops += 1
    assert [warm.measure(n).path for n in range(2)] == ["start 5", "start 6"]


def test_what_others_need_is_read_again_even_after_a_failure():
    class Recorded(PageCache):
        read = 0

        def read_kept(self):
            self.read += 1

    cache = Recorded()
    with pytest.raises(Unavailable):
        Cold(Counted(Unavailable("gone")), cache).measure(0)
    assert cache.read == 1


def test_kept_files_and_trees_are_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(page_cache, "read_file", lambda path: read.append(path) or 1)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_bytes(b"a")
    (tmp_path / "file").write_bytes(b"b")
    PageCache([tmp_path / "tree", tmp_path / "file", tmp_path / "missing"]).read_kept()
    assert read == [tmp_path / "tree/a", tmp_path / "file"]


def test_two_sides_are_warmed_up_and_take_turns():
    seen = []
    values = alternate(lambda: seen.append("a") or 1.0, lambda: seen.append("b") or 2.0, 3)
    assert "".join(seen) == "ababbaab"
    assert values == ([1.0] * 3, [2.0] * 3)


def test_the_largest_files_are_chosen_until_there_is_enough(tmp_path):
    for name, size in (("a", 10), ("b", 30), ("c", 20)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "link").symlink_to("b")
    assert largest_files(tmp_path, 40) == [Path("b"), Path("c")]


def test_a_golden_request_asks_what_the_poller_asks():
    question = Question("héllo", port=9000)
    request = json.loads(golden_request(question))
    assert (request["method"], request["path"], request["port"]) == ("POST", "/embed", 9000)
    assert request["body"].encode() == question.body()
    assert request["expect"] == {"mode": "json", "paths": ["vector"], "tolerance": 1e-3}
