"""config.json and everything that goes into it, without a container."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.errors import UserError
from runtime.accounts import Account, resolve_user
from runtime.bundle import exec_process, read_config, write_bundle
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec, Volume
from runtime.oci_spec import (
    DEFAULT_PATH,
    HostSide,
    ImageWithoutCommand,
    StopSignalUnknown,
    merge_environment,
    resolve_process,
    runtime_config,
    seccomp_profile,
)
from runtime.resolver import host_resolver

_HOST = HostSide(
    rootfs="/r", dev="/d", shm="/s", netns="/n", cgroup="/g", open_files=(1, 2), swap_limit=True
)


def _process(image=None, **fields):
    return resolve_process(ContainerSpec(name="x", **fields), {"config": image})


@pytest.mark.parametrize(
    ("image", "argv", "expected"),
    [
        ({"Cmd": ["a"]}, None, ("a",)),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, None, ("e", "a")),
        ({"Entrypoint": ["e"], "Cmd": ["a"]}, ("b", ""), ("e", "b", "")),
        ({"Entrypoint": ["e"], "Cmd": None}, (), ("e",)),
        (None, ("only",), ("only",)),
    ],
)
def test_argv_replaces_the_command_and_not_the_entrypoint(image, argv, expected):
    assert _process(image, argv=argv).argv == expected


@pytest.mark.parametrize("image", [None, {}, {"Cmd": []}, {"Cmd": [""]}])
def test_nothing_to_run_is_refused(image):
    with pytest.raises(ImageWithoutCommand):
        _process(image)


@pytest.mark.parametrize("stop_signal", ["SIGNONE", "0", "65", "SIGRTMAX+1", "²", 99, " "])
def test_a_stop_signal_that_is_none_is_refused(stop_signal):
    with pytest.raises(StopSignalUnknown, match="x: the image's StopSignal is not a signal"):
        _process({"Cmd": ["/a"], "StopSignal": stop_signal})


def test_a_stop_signal_may_be_a_number():
    assert _process({"Cmd": ["/a"], "StopSignal": 37}).stop_signal == "37"


def test_spec_wins_over_image_and_image_over_defaults():
    image = {"Cmd": ["a"], "Env": ["PATH=/p", "A=1"], "WorkingDir": "/w", "User": "u"}
    process = _process(image, env=("A=2", "B="), user="", workdir="/v")
    assert process.env == ("PATH=/p", "A=2", "B=")
    assert (process.user, process.workdir) == ("", "/v")
    assert _process({"Cmd": ["a"]}).env == (f"PATH={DEFAULT_PATH}",)
    assert _process({"Cmd": ["a"], "StopSignal": "SIGINT"}).stop_signal == "SIGINT"


@given(st.lists(st.from_regex(r"[A-C]=[a-z]{0,2}", fullmatch=True)))
def test_merged_environment_has_each_name_once_and_the_last_value(entries):
    merged = merge_environment(entries)
    assert dict(e.split("=") for e in merged) == dict(e.split("=") for e in entries)
    assert len({e.split("=")[0] for e in merged}) == len(merged)


def _config(account=None, **fields):
    spec = ContainerSpec(name="x", argv=("a",), **fields)
    return runtime_config(spec, resolve_process(spec, {}), account or Account(0, 0), _HOST)


def test_limits_become_resources():
    resources = _config(memory_bytes=64 << 20, cpus=1.5)["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert "memory" not in _config()["linux"]["resources"]


def test_capabilities_are_for_root_alone():
    assert _config()["process"]["capabilities"]["effective"]
    mere = _config(Account(33, 33))["process"]["capabilities"]
    assert mere["effective"] == mere["permitted"] == []
    assert mere["bounding"]
    assert "ambient" not in mere


def test_volumes_nest_in_order():
    config = _config(volumes=(Volume("/1", "/a/b/c"), Volume("/2", "/a", True)))
    binds = [m for m in config["mounts"] if m["source"] in ("/1", "/2")]
    assert [m["destination"] for m in binds] == ["/a", "/a/b/c"]
    assert "ro" in binds[0]["options"]
    assert "rw" in binds[1]["options"]


def test_dev_and_shm_are_bound_so_that_criu_needs_no_tar():
    kinds = {m["destination"]: m["type"] for m in _config()["mounts"]}
    assert kinds["/dev"] == kinds["/dev/shm"] == "bind"
    assert "tmpfs" not in kinds.values()


def test_own_namespaces_and_the_networks():
    namespaces = {n["type"]: n.get("path") for n in _config()["linux"]["namespaces"]}
    assert namespaces == {"pid": None, "ipc": None, "uts": None, "mount": None, "network": "/n"}


def test_config_is_json():
    assert json.loads(json.dumps(_config())) == _config()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_seccomp_profile_denies_what_criu_cannot_dump(machine):
    profile = seccomp_profile(machine)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert profile["architectures"]
    answers = {
        name: (rule["action"], rule.get("errnoRet"))
        for rule in profile["syscalls"]
        for name in rule["names"]
    }
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "clone3"):
        assert answers[name] == ("SCMP_ACT_ERRNO", 38)
    assert answers["memfd_secret"][0] == "SCMP_ACT_ALLOW"
    dangerous = {"bpf", "mount", "umount2", "kexec_load", "init_module", "setns", "unshare",
                 "open_by_handle_at", "perf_event_open", "keyctl", "add_key", "reboot", "swapon",
                 "move_mount", "pivot_root", "fsopen", "open_tree", "syslog"}  # fmt: skip
    assert not dangerous & set(answers)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbroken line\nweb:x:33:34:w:/srv:/bin/sh\n12:x:7:8::/h:/s\n"
        "big:x:99999999999:1::/:/s\n"
    )
    (tmp_path / "etc" / "group").write_text(
        "root:x:0:\nwww:x:34:\nmore:x:77:web,other\nx:x:y:web\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "account"),
    [
        ("", Account(0, 0, (), "/root")),
        ("web", Account(33, 34, (77,), "/srv")),
        ("33", Account(33, 34, (77,), "/srv")),
        ("web:more", Account(33, 77, (), "/srv")),
        ("web:5", Account(33, 5, (), "/srv")),
        ("1000:1000", Account(1000, 1000)),
        ("1000", Account(1000, 0)),
        ("12", Account(7, 8, (), "/h")),
    ],
)
def test_user_is_resolved_in_the_image(tree, wanted, account):
    assert resolve_user(tree, wanted) == account


@pytest.mark.parametrize("wanted", ["nobody-here", "web:nogroup", "-1", "4294967295", "big", ":"])
def test_unknown_users_are_refused(tree, wanted):
    with pytest.raises(UserError, match="is not in the image") as said:
        resolve_user(tree, wanted)
    assert (" of " in str(said.value)) == (":" in wanted)  # said only of one with a group


def test_image_without_accounts_still_has_numbers(tmp_path):
    assert resolve_user(tmp_path, "") == Account(0, 0)


_RESOLVED = "# real ones\nnameserver 10.0.0.53\nsearch lan\n"


@pytest.mark.parametrize(
    ("host", "resolved", "text", "behind"),
    [
        ("nameserver 10.1.1.1\noptions x\n", None, "nameserver 10.1.1.1\noptions x\n", None),
        ("nameserver 127.0.0.53\n", _RESOLVED, "nameserver 10.0.0.53\nsearch lan\n", None),
        ("nameserver 127.0.0.1\nnameserver 9.9.9.9\n", None, "nameserver 9.9.9.9\n", None),
        ("nameserver 127.0.0.53\nsearch a\n", None, "nameserver GW\nsearch a\n", "127.0.0.53"),
        ("nameserver ::1\n", None, "", None),
        (None, None, "", None),
    ],
)
def test_name_servers_are_those_a_container_can_reach(tmp_path, host, resolved, text, behind):
    for name, content in (("host", host), ("resolved", resolved)):
        if content is not None:
            (tmp_path / name).write_text(content)
    found = host_resolver("GW", tmp_path / "host", tmp_path / "resolved")
    assert (found.text, found.behind_gateway) == (text, behind)


def test_a_numeric_user_needs_no_file_of_the_root_and_no_file_changes_it(tmp_path):
    directory = ContainerDirectory(tmp_path / "c")
    directory.create()
    (directory.rootfs / "etc").mkdir()
    (directory.rootfs / "etc/passwd").write_text("1234:x:0:0::/:/bin/sh\n")
    write_bundle(
        directory,
        ContainerSpec(name="c", argv=("a",)),
        {"config": {"User": "1234:77"}},
        netns=tmp_path / "net",
        cgroup="/g",
        look_up_user=False,
    )
    expected = {"uid": 1234, "gid": 77, "additionalGids": []}
    assert read_config(directory)["process"]["user"] == expected
    assert exec_process(directory, ["id"])["user"] == expected
