"""torch is resolved before it is downloaded, and CUDA is refused with a sentence."""

import json

import pytest

from bench.workload import requirements
from bench.workload.requirements import (
    CudaBuild,
    Pinned,
    install,
    refuse_cuda,
    resolve,
    resolve_alone,
)
from hotstart.core.errors import Unsupported
from hotstart.core.run import CommandFailed

CPU = [("torch", "2.13.0+cpu"), ("numpy", "2.4.6"), ("cudatools-docs", "1")]


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A python whose pip keeps its arguments and reports what the test wants."""

    def make(packages=(), *, status=0, stderr="", needed=(), download_bytes=0):
        metadata = [{"name": n, "version": v, "requires_dist": needed} for n, v in packages]
        report = {"install": [{"metadata": entry} for entry in metadata]}
        (tmp_path / "report").write_text(json.dumps(report))
        (tmp_path / "stderr").write_text(stderr)
        program = tmp_path / "python"
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/argv\n'
            f"env --ignore-signal=XFSZ truncate -s {download_bytes} {tmp_path}/wheel || exit 1\n"
            f"cat {tmp_path}/report\n"
            f"cat {tmp_path}/stderr >&2\nexit {status}\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(requirements.sys, "executable", str(program))
        return lambda: (tmp_path / "argv").read_text().splitlines()

    return make


def test_what_pip_reports_is_what_is_pinned(pip):
    argv = pip(CPU)
    assert resolve(["torch==2.13.0", "numpy"]) == tuple(Pinned(*package) for package in CPU)
    words = argv()
    assert words[:2] == ["-m", "pip"]
    assert {"--dry-run", "--ignore-installed", "--only-binary=:all:"} <= set(words)
    assert words[words.index("--python-version") + 1] == "3.11"
    assert words[-2:] == ["torch==2.13.0", "numpy"]


def test_exactly_the_pinned_versions_are_installed(pip, tmp_path):
    argv = pip()
    install([Pinned("torch", "2.13.0+cpu")], tmp_path / "target")
    words = argv()
    assert "--no-deps" in words
    assert words[-1] == "torch==2.13.0+cpu"
    assert words.count("--target") == 1
    assert words[words.index("--target") + 1] == str(tmp_path / "target")


@pytest.mark.parametrize(
    "package",
    [
        Pinned("nvidia-cublas-cu12", "12.4"),
        Pinned("nvidia_cudnn_cu13", "9.1"),
        Pinned("cuda-toolkit", "13.0.3.0"),
        Pinned("triton", "3.5.0"),
        Pinned("torch", "2.13.0+cu130"),
        Pinned("torch", "2.13.0+rocm6.4"),
    ],
)
def test_cuda_in_any_spelling_is_refused_by_name(pip, package):
    with pytest.raises(CudaBuild, match="CPU build") as caught:
        refuse_cuda([Pinned("numpy", "2"), package])
    assert str(package) in str(caught.value)
    pip([(package.name, package.version)])
    with pytest.raises(CudaBuild):
        resolve(["torch"])


def test_torch_is_asked_for_alone_before_anything_that_it_needs(pip, monkeypatch):
    pip(CPU[:1], needed=["filelock", "nvidia-cublas==13.1; platform_system == 'Linux'"])
    with pytest.raises(CudaBuild, match="nvidia-cublas"):
        resolve([requirements.TORCH, "numpy"])
    elsewhere = "arm64" if requirements.platform.machine() != "arm64" else "x86_64"
    pip(CPU[:1], needed=[f"triton>=3; platform_machine == '{elsewhere}'", 'triton; extra == "x"'])
    assert resolve([requirements.TORCH]) == (Pinned(*CPU[0]),)


def test_a_file_larger_than_any_cpu_build_is_not_downloaded(pip, tmp_path):
    pip(CPU[:1], download_bytes=requirements.MOST_BYTES)
    assert resolve_alone(requirements.TORCH) == Pinned(*CPU[0])
    pip(CPU[:1], download_bytes=requirements.MOST_BYTES + 1)
    with pytest.raises(CudaBuild, match="more than 500 MiB"):
        resolve_alone(requirements.TORCH)


def test_a_python_without_pip_is_told_apart_from_a_failed_download(pip):
    pip(status=1, stderr="/usr/bin/python3: No module named pip\n")
    with pytest.raises(Unsupported, match="run make setup"):
        resolve(["torch"])
    pip(status=1, stderr="ERROR: No matching distribution found\n")
    with pytest.raises(CommandFailed, match="No matching distribution"):
        resolve(["torch"])
