"""A process restored lazily gets exactly its own bytes, whatever it or the worker goes through."""

import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hotstart.kernel.keeper_client import HandleSet
from hotstart.kernel.pidfd import ProcessIdentity, remember
from snapshotter.condemn import failure_of
from snapshotter.dump_directory import DumpDirectory
from snapshotter.session_spec import MemoryFileSpec, PageRun, SessionSpec
from tests.snapshotter.restored_tree import Restored, keeper_with_page_worker, wait_for

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    return Restored(tmp_path_factory.mktemp("torture"))


@pytest.fixture
def tree(dumped):
    yield dumped
    dumped.end()


@pytest.fixture
def workers(tmp_path):
    with keeper_with_page_worker(tmp_path / "run") as pair:
        yield pair


def begin(tree, pages, work_dir, **more):
    work_dir.mkdir()
    pages.open_session(tree.spec(work_dir.name, work_dir, **more))
    tree.restore(work_dir)
    return work_dir.name


def test_memory_is_bit_identical_with_faults_alone(tree, workers, tmp_path):
    keeper, pages = workers
    session = begin(tree, pages, tmp_path / "s1")
    tree.go()
    assert tree.outcome().startswith("ok ")
    stats = pages.session_stats(session)
    assert stats["faults"] > 1000
    assert stats["forks"] >= 3
    wait_for(lambda: pages.session_stats(session)["state"] == "ended", "end of the session")
    assert keeper.names("page") == []
    pages.close(session)
    assert pages.sessions() == []


def test_memory_is_bit_identical_while_it_is_filled_behind(tree, workers, tmp_path):
    _, pages = workers
    session = begin(tree, pages, tmp_path / "s2")
    pages.background_fill(session)
    tree.go()
    assert tree.outcome().startswith("ok ")


def test_a_filled_process_needs_no_worker_any_more(tree, workers, tmp_path):
    keeper, pages = workers
    session = begin(tree, pages, tmp_path / "s3")
    pages.background_fill(session)
    wait_for(lambda: keeper.names("page") == [], "everything resident")
    assert pages.session_stats(session)["missing_bytes"] == 0
    tree.go()
    assert tree.outcome().startswith("ok ")


def test_killed_workers_cost_no_byte(tree, workers, tmp_path):
    """The kernel fails open: without keeper and journal, missing memory would read as zeros."""
    keeper, pages = workers
    session = begin(tree, pages, tmp_path / "s4")
    tree.go()
    chance = random.Random(5)
    kills = 0
    while not tree.result.exists() and kills < 6:
        pid = keeper.status()["workers"]["page"]["pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(chance.uniform(0.02, 0.12))  # dies at any moment
    assert kills
    wait_for(lambda: tree.result.exists() or not alive(tree.pid), "end of the torture program")
    # The one window that is not covered must end in a kill with its reason, never in zeros.
    failure = failure_of(tmp_path / session)
    if failure is None:
        assert tree.outcome().startswith("ok ")
    else:
        assert "while a process was forked" in failure
        assert not tree.result.exists()


def test_the_working_set_is_there_before_it_is_asked_for(tree, workers, tmp_path):
    _, pages = workers
    [process] = DumpDirectory(tree.dump_dir).processes()
    lazy = [run for run in process.runs if run.lazy]
    order = tuple(PageRun(0, run.offset // 4096, run.pages) for run in lazy)
    session = begin(tree, pages, tmp_path / "s5", order=order)
    wait_for(lambda: not pages.session_stats(session)["missing_bytes"], "working set")
    stats = pages.session_stats(session)
    assert stats["working_set_pages"] + stats["copied_pages"] >= sum(run.pages for run in lazy)
    tree.go()
    assert tree.outcome().startswith("ok ")


def test_a_recording_has_each_touched_page_once(tree, workers, tmp_path):
    _, pages = workers
    session = begin(tree, pages, tmp_path / "s6", record=True)
    tree.go()
    assert tree.outcome().startswith("ok ")
    touches = pages.recording(session)
    assert len({(file, page) for _, file, page in touches}) > 1000
    assert [at for at, _, _ in touches] == sorted(at for at, _, _ in touches)


def test_memory_that_cannot_be_read_kills_its_process_with_the_reason(tree, workers, tmp_path):
    _, pages = workers
    work_dir = tmp_path / "s7"
    work_dir.mkdir()
    spec = tree.spec("s7", work_dir)
    cut = tmp_path / spec.memory_files[0].path.rsplit("/", 1)[1]
    content = Path(spec.memory_files[0].path).read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    files = (replace(spec.memory_files[0], path=str(cut)),)
    pages.open_session(replace(spec, memory_files=files))
    tree.restore(work_dir, check=False)
    tree.go()
    wait_for(lambda: pages.session_stats("s7")["state"] == "failed", "condemned session")
    wait_for(lambda: not (tree.pid and alive(tree.pid)), "end of the process")
    assert "cannot be read" in pages.session_stats("s7")["failure"]
    assert not tree.result.exists()


def test_a_keeper_that_dies_before_the_agent_has_a_copy_costs_the_process_and_no_byte(
    tree, workers, tmp_path
):
    keeper, pages = workers
    session = begin(tree, pages, tmp_path / "s8")
    wait_until_restored(pages, session)
    os.kill(keeper.status()["pid"], signal.SIGKILL)
    with keeper_with_page_worker(tmp_path / "run"):
        tree.go()
        wait_for(lambda: not alive(tree.pid), "end of the process")
    assert "before the agent held" in (failure_of(tmp_path / session) or "")
    assert not tree.result.exists()


def test_a_keeper_that_dies_when_the_agent_has_copies_costs_nothing(tree, workers, tmp_path):
    keeper, pages = workers
    wait_until_restored(pages, begin(tree, pages, tmp_path / "s9"))
    copies = [keeper.get(name) for name in keeper.names("page")]
    os.kill(keeper.status()["pid"], signal.SIGKILL)
    with keeper_with_page_worker(tmp_path / "run", copies):
        tree.go()
        assert tree.outcome().startswith("ok ")
    for copy in copies:
        copy.close()


def wait_until_restored(pages, session):
    wait_for(lambda: pages.session_stats(session)["state"] == "running", "end of the restore")


def give_bogus_set(keeper, spec_path):
    with open("/dev/null", "rb") as file:
        keeper.put(HandleSet("page/ghost", "page", {"spec": str(spec_path)}, [file.fileno()]))
    os.kill(keeper.status()["workers"]["page"]["pid"], signal.SIGKILL)


def test_sets_of_a_container_that_is_gone_are_dropped(workers, tmp_path):
    keeper, _ = workers
    give_bogus_set(keeper, tmp_path / "gone" / "page-session.json")
    wait_for(lambda: keeper.names("page") == [], "the set to be dropped")


def test_a_session_that_cannot_be_taken_over_kills_its_container_first(workers, tmp_path):
    keeper, _ = workers
    victim = subprocess.Popen(["sleep", "600"])
    process_file = tmp_path / "process"
    remember(ProcessIdentity.of(victim.pid), process_file)
    files = (MemoryFileSpec(str(tmp_path / "no-such-file"), 4096),)
    spec = SessionSpec("ghost", str(tmp_path), str(tmp_path), files, process_file=str(process_file))
    (tmp_path / "page-session.json").write_text(spec.to_json())
    give_bogus_set(keeper, tmp_path / "page-session.json")
    assert victim.wait(timeout=30) == -signal.SIGKILL
    wait_for(lambda: keeper.names("page") == [], "the set to be dropped")
    assert "no-such-file" in failure_of(tmp_path)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rsplit(b") ", 1)[1][:1] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
