"""Set-up finds out once which torch the demo will get, and asks nobody twice."""

import pytest

from bench.workload import tree
from bench.workload.requirements import TORCH, CudaBuild, Pinned
from hotstart.core.run import CommandFailed
from tools import torch_build
from tools.torch_build import ensure


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A checkout, an empty cache, and what pip says; None: nobody may ask."""
    (tmp_path / ".venv").mkdir()

    def call(answer):
        def resolve_alone(requirement, python):
            assert (requirement, python) == (TORCH, f"{tmp_path}/.venv/bin/python")
            assert answer is not None, "pip was asked again"
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(torch_build.requirements, "resolve_alone", resolve_alone)
        return ensure(tmp_path, tmp_path / "cache")

    return call


def test_a_cpu_build_is_named_and_asked_for_once(place):
    line = place(Pinned("torch", "2.13.0+cpu"))
    assert line.startswith("torch==2.13.0+cpu, a CPU build")
    assert place(None) == line


def test_a_cuda_build_is_not_taken_and_the_other_one_is_named(place):
    assert "no CPU build" in place(CudaBuild("gigabytes"))
    assert "Debian's torch" in place(None)


def test_a_pip_that_cannot_tell_leaves_the_question_open(place):
    with pytest.raises(CommandFailed, match="no network"):
        place(CommandFailed(["pip"], 1, "no network"))
    assert "2.13.0" in place(Pinned("torch", "2.13.0"))


def test_a_built_demo_tree_answers_without_pip(place, tmp_path, monkeypatch):
    about = tmp_path / f"cache/demo-tree-{tree._key()}/about.json"
    about.parent.mkdir(parents=True)
    about.write_text('{"torch": "torch==9+cpu"}')
    assert place(None).startswith("torch==9+cpu, a CPU build")
