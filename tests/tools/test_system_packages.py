"""System packages: asked of dpkg, installed once, lists fetched only when that is needed."""

import pytest

from hotstart.core.errors import UserError
from hotstart.core.run import CommandFailed
from tools import system_packages
from tools.system_packages import ensure, missing

DPKG = """
for word in "$@"; do
  case $word in
    runc) echo "runc installed";;
    conmon) echo "conmon config-files";;
    acl) test -e {marker} && echo "acl installed";;
  esac
done
exit 1
"""


@pytest.fixture
def host(fake_command, tmp_path, monkeypatch):
    """A host with runc, a removed conmon, and no acl until apt has installed it."""
    monkeypatch.setattr(system_packages.os, "geteuid", lambda: 0)
    fake_command("dpkg-query", DPKG.format(marker=tmp_path / "acl-is-there"))
    return tmp_path / "acl-is-there"


def verbs(calls):
    return [next(word for word in call if word in ("install", "update")) for call in calls]


def test_a_removed_package_is_missing_and_an_installed_one_is_not(host):
    assert missing(["runc", "conmon", "acl"]) == ["conmon", "acl"]


def test_nothing_is_asked_of_apt_when_everything_is_there(host, fake_command):
    apt = fake_command("apt-get")
    assert "are there" in ensure(["runc"])
    assert apt() == []


def test_known_packages_are_installed_without_fetching_lists(host, fake_command):
    apt = fake_command("apt-get")
    assert ensure(["runc", "acl"]) == "installed acl"
    assert verbs(apt()) == ["install", "install"]
    assert "--simulate" in apt()[0]
    assert apt()[1][-1] == "acl"
    assert "--no-install-recommends" in apt()[1]


def test_unknown_packages_are_installed_after_fetching_lists(host, fake_command):
    apt = fake_command("apt-get", 'case "$*" in *simulate*) exit 100;; esac')
    ensure(["acl"])
    assert verbs(apt()) == ["install", "update", "install"]


def test_lists_that_are_too_old_are_fetched_anew(host, fake_command, tmp_path):
    fresh = tmp_path / "fresh"
    body = f'case "$*" in *update*) touch {fresh};; *simulate*) ;; *) test -e {fresh};; esac'
    apt = fake_command("apt-get", body)
    ensure(["acl"])
    assert verbs(apt()) == ["install", "install", "update", "install"]


def test_what_apt_cannot_install_ends_set_up_with_its_words(host, fake_command):
    fake_command("apt-get", "echo 'E: no space left' >&2; exit 100")
    with pytest.raises(CommandFailed, match="no space left"):
        ensure(["acl"])


def test_without_root_the_missing_packages_are_named(host, monkeypatch):
    monkeypatch.setattr(system_packages.os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="missing system packages: acl") as caught:
        ensure(["acl"])
    assert caught.value.hint == "run make setup as root"
