"""The mirror is the one that apt is configured with, in every spelling that Debian ships."""

import pytest

from bench.workload.debian_mirror import Mirror, MirrorUnknown, configured_mirror

KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def host(tmp_path):
    """A root with a release and a keyring; ``write`` adds apt's files."""
    for name in ("etc/apt/sources.list.d", "usr/share/keyrings"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / KEYRING).touch()
    (tmp_path / "etc/os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')

    def write(name, text):
        (tmp_path / "etc/apt" / name).write_text(text)
        return tmp_path

    return write


def uri(root):
    return configured_mirror(root).uri


def test_deb822_sources_are_read(host):
    assert uri(host("sources.list.d/debian.sources", DEB822)) == "http://mirror.example/debian"


RIGHT = "deb http://mirror.example/debian bookworm main"


@pytest.mark.parametrize(
    "lines",
    [
        f"{RIGHT} contrib",
        "deb [signed-by=/x.gpg arch=amd64]  http://mirror.example/debian/ bookworm main",
        "# deb http://wrong.example/debian bookworm main\n" + RIGHT.replace("bookworm", "stable"),
        f"deb-src http://wrong.example/debian bookworm main\n{RIGHT}",
        f"deb http://wrong.example/tools nodistro main\n{RIGHT}",
    ],
)
def test_one_line_sources_are_read(host, lines):
    assert uri(host("sources.list", f"{lines}\n")) == "http://mirror.example/debian"


def test_the_release_of_the_host_beats_another_archive(host):
    host("sources.list.d/a.list", "deb http://other.example/backports bookworm-backports main\n")
    assert uri(host("sources.list.d/b.sources", DEB822)) == "http://mirror.example/debian"


def test_a_disabled_stanza_does_not_count(host):
    root = host("sources.list.d/a.sources", "Enabled: no\n" + DEB822.replace("mirror", "off", 1))
    with pytest.raises(MirrorUnknown, match="no entry for the suite 'bookworm'"):
        configured_mirror(root)


def test_a_list_of_mirrors_gives_its_first(host, tmp_path):
    listing = tmp_path / "mirrors.list"
    listing.write_text(
        "# nearest\nhttps://mirror.example/debian/\tpriority:1\nhttp://far.example\n"
    )
    text = DEB822.replace("http://mirror.example/debian/", f"mirror+file://{listing}", 1)
    assert uri(host("sources.list.d/debian.sources", text)) == "https://mirror.example/debian"


def test_fields_may_go_on_in_the_next_line(host):
    text = DEB822.replace("Suites: bookworm bookworm-updates", "Suites:\n trixie\n bookworm", 1)
    assert uri(host("sources.list.d/debian.sources", text)) == "http://mirror.example/debian"


def test_without_sources_or_keyring_the_sentence_names_what_is_missing(host, tmp_path):
    with pytest.raises(MirrorUnknown, match="name a Debian mirror there"):
        configured_mirror(host("sources.list", ""))
    (tmp_path / KEYRING).unlink()
    with pytest.raises(MirrorUnknown, match="install debian-archive-keyring"):
        configured_mirror(host("sources.list.d/debian.sources", DEB822))


def test_another_suite_is_asked_from_the_same_mirror_with_its_keys(tmp_path):
    text = Mirror("http://mirror.example/debian", tmp_path / "keys.gpg").sources_list("forky")
    assert "Suites: forky\n" in text
    assert "URIs: http://mirror.example/debian\n" in text
    assert f"Signed-By: {tmp_path / 'keys.gpg'}\n" in text
