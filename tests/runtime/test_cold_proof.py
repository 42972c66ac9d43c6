"""What a proof of statelessness starts: the program that runs, however it came to run."""

from types import SimpleNamespace

from runtime.accounts import Account, numeric_account, resolve_user
from runtime.bundle import write_config
from runtime.cold_proof import started_as
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.oci_spec import Process, process_config, resolve_process

IMAGE = SimpleNamespace(
    config={"config": {"Entrypoint": ["/entry"], "Cmd": ["default"], "Env": ["A=image"]}}
)


def test_a_proof_of_a_restored_container_starts_what_was_frozen(tmp_path):
    """Its spec has no command, directory and user: those were in the snapshot."""
    directory = ContainerDirectory(tmp_path / "web")
    directory.create()
    process = Process(("/entry", "serve", "--fast"), ("A=b",), "/site", "", "SIGTERM")
    write_config(directory, {"process": process_config(process, Account(33, 34, (77, 78)), (1, 1))})
    subject = SimpleNamespace(directory=directory, spec=ContainerSpec(name="web"))
    spec = started_as(subject, IMAGE)
    again = resolve_process(spec, IMAGE.config)
    assert (again.argv, again.workdir) == (process.argv, "/site")
    assert "A=b" in again.env
    assert numeric_account(again.user) == Account(33, 34, (77, 78))
    assert spec.hostname == "web"


def test_a_user_in_numbers_keeps_supplementary_groups_and_finds_its_home(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("web:x:33:34::/srv:/bin/sh\n")
    (tmp_path / "etc/group").write_text("extra:x:77:web\n")
    assert resolve_user(tmp_path, "33:34+77+5") == Account(33, 34, (77, 5), "/srv")
    assert resolve_user(tmp_path, "33:34") == Account(33, 34, (), "/srv")
    assert numeric_account("33:34+") is None
    assert numeric_account("33") is None
