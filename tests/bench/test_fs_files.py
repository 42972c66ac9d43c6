import json
import os
import time

from blake3 import blake3

from bench.fs import reads
from bench.fs.options import QUICK
from bench.fs.raw_client import ImageFile
from bench.fs.source import MODULE, SEQUENTIAL, WEIGHTS, make_source
from hotstart.core.digest import ChunkDigest, Digest
from hotstart.core.span import Span
from hotstart.store.chunk_table import Chunk, ChunkTable
from hotstart.store.packs import compress

PAGE = 4096


def test_the_files_are_the_same_in_every_run(tmp_path):
    first = make_source(tmp_path / "a", QUICK, None)
    second = make_source(tmp_path / "b", QUICK, None)
    assert first.digests == second.digests
    assert first.first == second.first
    assert first.module == MODULE
    assert (tmp_path / "a" / SEQUENTIAL).stat().st_size == QUICK.sequential


def test_the_sequential_file_is_halved_by_zstd_and_the_weights_are_safetensors(tmp_path):
    make_source(tmp_path / "t", QUICK, None)
    content = (tmp_path / "t" / SEQUENTIAL).read_bytes()[: 1 << 20]
    stored, raw = compress(content)
    assert not raw
    assert 0.4 < len(stored) / len(content) < 0.6
    weights = (tmp_path / "t" / WEIGHTS).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    assert max(t["data_offsets"][1] for t in header.values()) == len(weights) - 8 - length


def test_torch_packages_are_copied_without_headers_and_byte_code_is_not_checked(tmp_path):
    packages = tmp_path / "packages"
    for name in ("torch/__pycache__", "torch/include", "other"):
        (packages / name).mkdir(parents=True)
    (packages / "torch/include/a.h").write_text("x")
    code = packages / "torch/__pycache__/a.cpython-311.pyc"
    code.write_bytes(bytes(16) + b"code")
    source = make_source(tmp_path / "t", QUICK, packages)
    copied = source.tree / "packages"
    assert {p.name for p in copied.iterdir()} == {"torch"}
    assert not (copied / "torch/include").exists()
    content = (copied / "torch/__pycache__/a.cpython-311.pyc").read_bytes()
    assert (content[4:8], content[16:]) == (b"\1\0\0\0", b"code")
    assert code.read_bytes() == bytes(16) + b"code"


def table_of(places, packs):
    chunks = [
        Chunk(number * PAGE, PAGE, pack, offset, 100, False, ChunkDigest(bytes(32)))
        for number, (pack, offset) in enumerate(places)
    ]
    names = [Digest(f"{n:064x}") for n in range(packs)]
    return ChunkTable.of_bytes(ChunkTable.encode(chunks, names, len(chunks) * PAGE).content)


def test_chunks_side_by_side_in_one_pack_are_one_range_up_to_its_limit():
    places = [(0, 0), (0, 100), (1, 0), (0, 200), (0, 500), (1, 100)]
    file = ImageFile(Span(0, 6 * PAGE), table_of(places, 2))
    found = [[(c.pack, c.pack_offset) for c in run] for run in file.ranges(10_000)]
    assert found == [[(0, 0), (0, 100), (0, 200)], [(0, 500)], [(1, 0), (1, 100)]]
    assert [len(run) for run in file.ranges(250)] == [2, 1, 1, 2]


def test_reads_return_what_is_in_the_file(tmp_path):
    path = tmp_path / "f"
    content = os.urandom(3 * PAGE)
    path.write_bytes(content)
    assert reads.read_whole(path)[1] == blake3(content).digest()
    pages = content[2 * PAGE :] + content[:PAGE]
    assert reads.fault_pages(path, [2 * PAGE, 0])[1] == blake3(pages).digest()
    assert reads.first_page(path) == content[:PAGE]
    (tmp_path / "d").mkdir()
    assert reads.walk(tmp_path)[1] == 2


def test_a_read_is_timed_for_each_name(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = reads.time_each(["a", "b"], str.encode, 1)
    assert found == [("a", 1e3, b"a"), ("b", 1e3, b"b")]
