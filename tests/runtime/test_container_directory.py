"""Container directories: what the host's users can reach of them."""

from runtime.container_directory import ContainerDirectory


def test_nobody_but_root_enters_a_containers_directory(tmp_path):
    directory = ContainerDirectory(tmp_path / "containers" / "web")
    directory.create()
    assert directory.path.stat().st_mode & 0o077 == 0, "its set-user-id programs are out of reach"
