"""What a container may do, seen from inside: the defaults of a hardened runtime."""

import errno
import json
import shutil

import pytest

from runtime.accounts import resolve_user
from runtime.container_spec import Volume
from runtime.containers import wait
from runtime.logs import last_lines, read_log
from runtime.oci_spec import CAPABILITIES
from runtime.rootfs import write_host_files

pytestmark = pytest.mark.kernel

_HOST_USR = Volume("/usr", "/usr", read_only=True)

_PROBE = """
import ctypes, errno, json, os, platform
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
def call(number, *arguments):
    ctypes.set_errno(0)
    return 0 if libc.syscall(number, *arguments) >= 0 else ctypes.get_errno()
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as err:
        return err.errno
    return 0
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "io_uring_setup": call(425, 1, 0),
    "io_uring_enter": call(426, 0, 0, 0, 0, 0),
    "io_uring_register": call(427, 0, 0, 0, 0),
    "userfaultfd": call(323 if x86 else 282, 0),
    "memfd_secret": call(447, 0),
    "clone3": call(435, 0, 0),
    "unshare_user": call(272 if x86 else 97, 0x10000000),
    "mount": call(165 if x86 else 40, 0, 0, 0, 0, 0),
    "bpf": call(321 if x86 else 280, 0, 0, 0),
    "keyctl": call(250 if x86 else 219, 0, 0, 0, 0, 0),
    "reboot": call(169 if x86 else 142, 0, 0, 0, 0),
    "vsock": attempt(__import__("socket").socket, 40, 1, 0),
    "mknod": attempt(os.mknod, "/tmp/disk", 0o060666, os.makedev(7, 0)),
    "write_sysctl": attempt(open, "/proc/sys/kernel/panic", "w"),
    "write_sys": attempt(open, "/sys/kernel/mm/transparent_hugepage/enabled", "w"),
    "bounding": int(status["CapBnd"], 16),
    "effective": int(status["CapEff"], 16),
    "ambient": int(status["CapAmb"], 16),
    "no_new_privs": status["NoNewPrivs"].strip(),
    "seccomp": status["Seccomp"].strip(),
    "keys": os.stat("/proc/keys").st_rdev == os.makedev(1, 3),
    "firmware": os.listdir("/sys/firmware") if os.path.isdir("/sys/firmware") else [],
    "acpi": os.listdir("/proc/acpi") if os.path.isdir("/proc/acpi") else [],
    "dev": sorted(os.listdir("/dev")),
    "null": attempt(open, "/dev/null", "w"),
    "shm": attempt(open, "/dev/shm/x", "w"),
    "ptmx": attempt(os.openpty),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "links": sorted(os.listdir("/sys/class/net")),
    "volume": attempt(open, "/usr/hotstart-was-here", "w"),
}))
"""


def _inspect(start, user=""):
    python = shutil.which("python3", path="/usr/bin")
    argv = (python, "-I", "-S", "-c", _PROBE)
    with start(argv, user=user or None, volumes=(_HOST_USR,)) as container:
        ended = wait(container.directory)
        assert ended.exit_status == 0, last_lines(container.directory)
        return json.loads(b"".join(line.data for line in read_log(container.directory)))


@pytest.mark.skipif(not shutil.which("python3", path="/usr/bin"), reason="no Python of the host")
def test_defaults_are_hardened(start):
    seen = _inspect(start)
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "clone3"):
        assert seen[name] == errno.ENOSYS, name
    # ENOSYS without the kernel's secretmem option; never the filter's EPERM.
    assert seen["memfd_secret"] in (0, errno.ENOSYS)
    for name in ("unshare_user", "mount", "bpf", "keyctl", "reboot", "vsock", "mknod"):
        assert seen[name] == errno.EPERM, name
    for name in ("write_sysctl", "write_sys", "volume"):
        assert seen[name] == errno.EROFS, name
    assert seen["no_new_privs"] == "1"
    assert seen["seccomp"] == "2"
    assert bin(seen["bounding"]).count("1") == len(CAPABILITIES)
    assert seen["effective"] == seen["bounding"]
    assert seen["ambient"] == 0
    assert seen["keys"] is True
    assert (seen["firmware"], seen["acpi"]) == ([], [])
    assert not set(seen["dev"]) & {"kmsg", "mem", "sda", "vda", "fuse", "kvm"}
    assert (seen["null"], seen["shm"], seen["ptmx"]) == (0, 0, 0)
    assert seen["processes"] == ["1"]
    assert seen["links"] == ["eth0", "lo"]


@pytest.mark.skipif(not shutil.which("python3", path="/usr/bin"), reason="no Python of the host")
def test_process_that_is_not_root_has_no_capability(start):
    seen = _inspect(start, user="web")
    assert seen["effective"] == 0
    assert seen["null"] == 0
    assert seen["shm"] == 0


def test_writes_stay_in_the_writable_layer(start, lower):
    with start("echo kept > /etc/note; rm /etc/group") as container:
        wait(container.directory)
        assert (container.directory.upper / "etc" / "note").read_text() == "kept\n"
    assert not (lower / "etc" / "note").exists()
    assert (lower / "etc" / "group").exists()


def test_volume_shows_the_hosts_files_both_ways(start, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "in").write_text("from the host\n")
    volume = Volume(str(tmp_path / "shared"), "/data")
    with start("cat /data/in; echo back > /data/out", volumes=(volume,)) as container:
        wait(container.directory)
        assert last_lines(container.directory) == ["from the host"]
    assert (tmp_path / "shared" / "out").read_text() == "back\n"


def test_links_in_the_image_do_not_lead_out(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "hosts").symlink_to(outside)
    (tree / "etc" / "passwd").symlink_to("../../../../../../../../etc/passwd")
    write_host_files(tree, "name", "")
    assert outside.read_text() == "untouched"
    assert not (tree / "etc" / "hosts").is_symlink()
    # The link means the tree's own etc/passwd: a loop, so there is no such file.
    assert resolve_user(tree, "0").uid == 0


def test_image_with_an_odd_etc_goes_without_host_files(tmp_path):
    (tmp_path / "etc" / "hosts").mkdir(parents=True)
    write_host_files(tmp_path, "name", "nameserver 9.9.9.9\n")
    assert (tmp_path / "etc" / "hosts").is_dir()
    assert (tmp_path / "etc" / "resolv.conf").read_text() == "nameserver 9.9.9.9\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "etc").symlink_to("nowhere")
    write_host_files(tmp_path / "other", "name", "")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["etc"]
