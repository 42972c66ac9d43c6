"""The private CRIU: kept when fit, replaced whole, refused when it fails its self-test."""

import os

import pytest

from bench.workload.debian_mirror import Mirror
from hotstart.kernel.criu_check import CriuUnfit
from tools import criu_prefix
from tools.criu_prefix import ensure


@pytest.fixture
def place(tmp_path, monkeypatch, fake_command):
    """A prefix to be; apt "downloads" one package whose criu says the version in ``release``."""
    monkeypatch.setattr(criu_prefix, "configured_mirror", lambda: Mirror("file:/m", tmp_path / "k"))
    release = tmp_path / "release"
    release.write_text("4.2.1")
    fake_command(
        "apt-get",
        'for word in "$@"; do case $word in Dir::Cache=*) cache=${word#*=};; esac; done\n'
        'case "$*" in *download-only*) touch "$cache/archives/criu.deb";; esac',
    )
    fake_command(
        "dpkg-deb",
        'mkdir -p "$3/usr/sbin" "$3/usr/lib/x"\n'
        f'echo "$(cat {release})" > "$3/usr/sbin/criu"\n'
        # The loader is a script: it lists one library, or says what the program holds.
        'printf \'#!/bin/sh\\nif [ "$3" = --list ]; then echo "libx.so => $2/libx.so (0x1)"; '
        'else echo "Version: $(cat "$3")"; fi\\n\' > "$3/usr/lib/x/ld-linux-x.so.2"\n'
        'chmod +x "$3/usr/lib/x/ld-linux-x.so.2"; touch "$3/usr/lib/x/libx.so"',
    )
    return tmp_path / "opt/criu"


@pytest.fixture
def tested(monkeypatch):
    """The commands that were put to the self-test; ``fail`` makes it refuse them."""

    class Tests(list):
        fail = False

        def __call__(self, criu):
            self.append(criu)
            if self.fail:
                raise CriuUnfit("criu: cannot dump a process with a listening TCP socket")

    tests = Tests()
    monkeypatch.setattr(criu_prefix.criu_check, "self_test", tests)
    return tests


def test_the_prefix_holds_the_program_its_loader_and_its_libraries(place, tested):
    assert ensure(place).startswith(f"CRIU 4.2.1 in {place}, self-test passed")
    found = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
    assert found == {
        "bin/criu", "lib/ld-linux-x.so.2", "lib/libx.so", "libexec/criu", "self-test", "version",
    }  # fmt: skip
    assert str(place) in (place / "bin/criu").read_text()
    assert list(place.parent.iterdir()) == [place]


def test_a_fit_prefix_is_neither_fetched_nor_tested_again(place, tested, fake_command):
    ensure(place)
    before = list(tested)
    apt = fake_command("apt-get", "exit 1")
    ensure(place)
    assert apt() == []
    assert tested == before


def test_another_kernel_means_another_self_test(place, tested):
    ensure(place)
    (place / "self-test").write_text("5.10.0")
    tested.clear()
    ensure(place)
    assert tested == [[str(place / "bin/criu")]]
    assert (place / "self-test").read_text() == os.uname().release


def test_a_criu_that_fails_its_self_test_never_comes_into_place(place, tested):
    tested.fail = True
    with pytest.raises(CriuUnfit, match="listening TCP socket"):
        ensure(place)
    assert list(place.parent.iterdir()) == []


def test_an_old_criu_is_replaced_whole(place, tested):
    ensure(place)
    (place / "libexec/criu").write_text("4.1.1")
    (place / "lib/left-over").touch()
    assert "CRIU 4.2.1" in ensure(place)
    assert not (place / "lib/left-over").exists()
    assert list(place.parent.iterdir()) == [place]


def test_a_suite_whose_criu_is_too_old_is_refused_and_the_old_prefix_stays(place, tested, tmp_path):
    ensure(place)
    (place / "version").unlink()
    (tmp_path / "release").write_text("4.1.1")
    with pytest.raises(CriuUnfit, match=r"4\.1\.1"):
        ensure(place)
    assert (place / "bin/criu").exists()
    assert list(place.parent.iterdir()) == [place]
