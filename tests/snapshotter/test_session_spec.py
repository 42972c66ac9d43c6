"""Session specs as they travel."""

import json
from dataclasses import replace

import pytest

from snapshotter.condemn import failure_of, record_failure
from snapshotter.session_spec import MemoryFileSpec, PageRun, SessionSpec, SpecInvalid

SPEC = SessionSpec(
    "web-1",
    "/work",
    "/dump",
    (MemoryFileSpec("/dump/pages-1.img", 8192, "/d.dev", "ab", 4096, 12288, "/d.ready"),),
    order=(PageRun(0, 1, 1),),
    record=True,
    cgroup_procs=("/sys/fs/cgroup/x/cgroup.procs",),
    process_file="/process",
)


def test_a_spec_survives_its_json():
    assert SessionSpec.from_json(SPEC.to_json()) == SPEC


def test_a_spec_of_the_version_before_is_read_without_the_bare_number_it_names():
    value = SPEC.encode() | {"version": 1, "pid_file": "/pid"}
    del value["process_file"]
    assert SessionSpec.decode(value) == replace(SPEC, process_file="")


@pytest.mark.parametrize(
    "change",
    [{"version": 3}, {"order": [[1, 2]]}, {"memory_files": [{}]}, {"memory_files": 3}, None],
)
def test_another_shape_is_refused(change):
    value = SPEC.encode() | change if change else {}
    with pytest.raises(SpecInvalid):
        SessionSpec.from_json(json.dumps(value))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(SpecInvalid):
        SessionSpec.from_json(b"{")


def test_the_first_reason_of_a_failure_stays(tmp_path):
    assert failure_of(tmp_path) is None
    record_failure(tmp_path, "first")
    record_failure(tmp_path, "second")
    assert failure_of(tmp_path) == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["page-failure.json"]
