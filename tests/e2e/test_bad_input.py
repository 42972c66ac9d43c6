"""What bad input gets: one clear sentence, the exit code of the table, nothing half-made."""

import io
import json
import socket
import tarfile
from pathlib import Path

import pytest

from tests.e2e.conftest import SLEEP, answers, ask
from tests.requires import requires
from tests.tracer import tracing

pytestmark = [
    pytest.mark.e2e,
    requires("erofs", "overlay", "veth", "nft_nat", "runc", "conmon"),
]

USER, NOT_FOUND, CONFLICT, UNAVAILABLE, INTEGRITY = 100, 101, 102, 103, 104
NOT_READY, FAILED = 106, 107


def refused(result, status, *words):
    """Assert the exit code, one sentence with these words, and the document beside it."""
    assert result.status == status, result
    assert "Traceback" not in result.err
    last = result.err[result.err.rindex("hotstart: ") :]
    for word in words:
        assert word in last, result
    if result.out:
        assert result.error["code"] == status


def store_files(store):
    blobs = Path(store) / "blobs"
    return sorted(path.name for path in blobs.rglob("*") if path.is_file())


def test_an_unknown_reference(hotstart):
    for words in (
        ("run", "none:v1"),
        ("restore", "none:v1"),
        ("pull", "none:v1"),
        ("mount", "none:v1", "/mnt"),
    ):
        refused(hotstart(*words, "--json"), NOT_FOUND, "none:v1")
    assert hotstart.names() == []


def test_a_snapshot_is_not_run_and_an_image_is_not_restored(hotstart):
    refused(hotstart("restore", "shell:v1", "--json"), USER, "is an image", "hotstart run")


def archive(path, *members):
    """Write an OCI archive with one layer of the given tar members (info, content)."""
    from hashlib import sha256

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    blobs = {}

    def put(content):
        blobs[f"blobs/sha256/{sha256(content).hexdigest()}"] = content
        return {"digest": f"sha256:{sha256(content).hexdigest()}", "size": len(content)}

    layer = layer.getvalue()
    config = put(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/app"]},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256(layer).hexdigest()]},
            }
        ).encode()
    )
    oci = "application/vnd.oci.image"
    manifest = put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{oci}.manifest.v1+json",
                "config": {"mediaType": f"{oci}.config.v1+json", **config},
                "layers": [{"mediaType": f"{oci}.layer.v1.tar", **put(layer)}],
            }
        ).encode()
    )
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": f"{oci}.manifest.v1+json", **manifest}],
    }
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", json.dumps(index).encode()),
            *blobs.items(),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"content" if kind == tarfile.REGTYPE else b""


HOSTILE = (
    ([member("a/../../outside")], "'..' in its path"),
    ([member("/outside")], "an absolute path"),
    ([member("hard", tarfile.LNKTYPE, "../../etc/passwd")], "'..' in its path"),
    ([member("hard", tarfile.LNKTYPE, "etc/passwd")], "is missing"),
    ([member("null"), member("null/below")], "where null is a file"),
    ([member("nowhere", tarfile.SYMTYPE)], "a path of 0 bytes"),
)


def test_hostile_archives_are_refused_and_nothing_is_published(own_store, scratch):
    for members, word in HOSTILE:
        path = archive(scratch / "hostile.tar", *members)
        built = own_store("build", f"oci-archive:{path}", "-t", "hostile:v1", "--json")
        refused(built, USER, word)
    assert own_store.ok("images", "--json").document["images"] == []


def test_a_link_that_points_outside_leads_to_a_place_inside_the_image(own_store, scratch):
    outside = scratch / "outside"
    link = member("esc", tarfile.SYMTYPE, str(scratch))
    path = archive(scratch / "link.tar", link, member("esc/outside"))
    own_store.ok("build", f"oci-archive:{path}", "-t", "link:v1")
    mounted = scratch / "mounted"
    mounted.mkdir()
    own_store.ok("mount", "link:v1", mounted)
    inside = Path(f"{mounted}{outside}")
    assert inside.read_bytes() == b"content"
    assert (mounted / "esc").readlink() == scratch
    own_store.ok("umount", mounted)
    assert not outside.exists()


def test_broken_archives(own_store, scratch):
    good = archive(scratch / "good.tar", member("bin/app"))
    content = good.read_bytes()
    for cut in (100, 700, content.index(b"content")):
        (scratch / "cut.tar").write_bytes(content[:cut])
        built = own_store("build", f"oci-archive:{scratch / 'cut.tar'}", "-t", "cut:v1", "--json")
        assert built.status in (USER, INTEGRITY), (cut, built)
    assert "cut:v1" not in own_store.ok("images").out


def test_a_source_that_is_neither_directory_nor_archive(own_store, scratch):
    (scratch / "file").write_text("words")
    refused(own_store("build", scratch / "file", "-t", "x:v1", "--json"), USER, str(scratch))
    refused(own_store("build", f"oci-archive:{scratch / 'file'}", "-t", "x:v1"), USER)
    assert store_files(own_store.store) == []


def copy_image(own_store, name="app:v1"):
    """Build a small image with a program into the root's own store."""
    tree = own_store.root.parent / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    (tree / "bin/sh").symlink_to("busybox")
    own_store.ok("build", tree, "-t", name, "--cmd", "/bin/sh", "--cmd", "-c", "--cmd", "exit 0")


def test_a_flipped_byte_is_found_before_it_is_used(own_store):
    copy_image(own_store)
    blobs = Path(own_store.store) / "blobs"
    needed = [path for path in blobs.rglob("*") if path.is_file()]
    assert len(needed) == 5  # manifest, config, bootstrap, chunk table, pack
    for path in needed:
        content = path.read_bytes()
        at = len(content) // 2
        path.chmod(0o644)
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        _forget_cache(own_store.root)
        ran = own_store("run", "app:v1", "--json")
        refused(ran, INTEGRITY)
        own_store.nothing_runs()
        own_store.ok("agent", "stop", "--all")
        path.write_bytes(content)
    _forget_cache(own_store.root)
    own_store.ok("run", "app:v1")


def _forget_cache(root):
    for path in (root / "cache").rglob("*"):
        if path.is_file():
            path.unlink()


def test_a_format_version_of_the_future(own_store):
    from hotstart.core import canonical_json
    from hotstart.core.digest import Digest

    copy_image(own_store)
    store = Path(own_store.store)
    digest = own_store.ok("inspect", "app:v1", "--json").document["digest"]
    manifest = json.loads((store / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())
    manifest["artifactType"] = manifest["artifactType"].replace(".v1", ".v9")
    content = canonical_json.encode(manifest)
    new = Digest.of(content)
    (store / "blobs/sha256" / new.hex).write_bytes(content)
    reference = store / "references/app/_tags/v1"
    document = json.loads(reference.read_bytes())
    document["target"] |= {"digest": str(new), "size": len(content)}
    reference.chmod(0o644)
    reference.write_bytes(canonical_json.encode(document))
    for command in ("inspect", "verify", "run"):
        result = own_store(command, "app:v1", "--json")
        refused(result, INTEGRITY, "version 9 is unknown")


def test_an_unreachable_store(hotstart):
    hotstart.env |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with socket.socket() as taken:  # bound and silent: nobody ever listens here
        taken.bind(("127.0.0.1", 0))
        url = f"s3://bucket/p?endpoint=http://127.0.0.1:{taken.getsockname()[1]}&region=none"
        for words in (("images",), ("build", "/bin", "-t", "app:v1"), ("run", "app:v1")):
            result = hotstart(*words, "--store", url, "--json")
            refused(result, UNAVAILABLE, "127.0.0.1", "does not answer")
    assert hotstart.names() == []


def test_an_image_without_a_command(hotstart):
    refused(hotstart("run", "empty:v1", "--json"), USER, "has no command", "--cmd")
    assert hotstart.names() == []


def test_a_program_that_is_not_there(hotstart):
    refused(hotstart("run", "shell:v1", "--json", "--", "/no/such"), USER, "/no/such")
    hotstart.ok("run", "shell:v1", "-d", "--name", "one", "--", *SLEEP)
    refused(hotstart("exec", "one", "--json", "--", "/no/such"), USER, "/no/such")
    plain = hotstart("exec", "one", "--", "no-such")
    refused(plain, USER, "the program 'no-such' does not exist")
    assert len(plain.err.strip().splitlines()) == 1
    for option, value in (("--workdir", "/none"), ("--workdir", "none"), ("--env", "A")):
        refused(hotstart("exec", "one", option, value, "--json", "--", "/bin/pwd"), USER, value)
    said = hotstart("exec", "one", "--", "/bin/sh", "-c", "echo words >&2; exit 255")
    assert (said.status, said.err) == (255, "words\n")
    hotstart.ok("stop", "one")
    refused(hotstart("exec", "one", "--json", "--", "/bin/true"), USER, "not running")


def test_a_port_in_use(hotstart, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        result = hotstart("run", "shell:v1", "-p", f"{port}:80", "--json", "--", *SLEEP)
        refused(result, CONFLICT, str(port))
        assert hotstart.names() == []


def test_a_probe_that_never_answers(hotstart, port):
    result = hotstart(
        "run", "shell:v1", "-d", "-p", f"{port}:80", "--ready", "tcp:80", "--ready-timeout", "0.4",
        "--json", "--", "/bin/sh", "-c", "echo the last words; while :; do sleep 0.1; done",
    )  # fmt: skip
    refused(result, NOT_READY, "did not become ready", "the last words")
    hotstart.nothing_runs()
    assert not answers(port)


def test_a_container_that_ends_before_it_is_ready(hotstart):
    result = hotstart(
        "run", "shell:v1", "-d", "--ready", "tcp:80", "--json", "--",
        "/bin/sh", "-c", "echo gone; exit 3",
    )  # fmt: skip
    refused(result, NOT_READY, "ended with status 3", "gone")
    hotstart.nothing_runs()


@requires("criu", "userfaultfd_events")
def test_a_process_that_cannot_be_dumped_runs_on(hotstart, port):
    """A connection to a host's unix socket cannot be dumped."""
    shared = hotstart.root.parent / "shared"
    shared.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(shared / "socket"))
        listening.listen()
        hotstart.ok(
            "run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000",
            "-v", f"{shared}:/host", "--ready", "http://127.0.0.1:8000/",
        )  # fmt: skip
        ask(port, "/connect")
        result = hotstart("snapshot", "web", "-t", "bad:v1", "--json")
        refused(result, FAILED, "cannot be captured", "socket", "still runs")
        assert ask(port)["count"] == 0
        assert "bad:v1" not in hotstart.ok("images").out
        hotstart.ok("stop", "web")


@requires("criu", "userfaultfd_events")
def test_a_traced_process_and_an_unanswered_golden_request_are_told_plainly(
    hotstart, port, scratch
):
    hotstart.ok(
        "run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000",
        "--ready", "http://127.0.0.1:8000/",
    )  # fmt: skip
    golden = scratch / "golden.json"
    golden.write_text('{"path": "/", "port": 9}')
    result = hotstart("snapshot", "web", "-t", "bad:v1", "--golden", golden, "--json")
    refused(result, NOT_READY, "golden request GET :9/: nobody listens on port 9")
    with tracing(hotstart.container("web")["pid"]):
        result = hotstart("snapshot", "web", "-t", "bad:v1", "--json")
    refused(result, FAILED, "its process 1 (python3) is traced by", "still runs")
    assert ask(port)["count"] == 0


@requires("criu", "userfaultfd_events")
def test_bad_snapshots(own_store, port):
    """Missing image, missing signature, and a stateful one that cannot be restored."""
    from tests.runtime.small_image import make_tree

    tree = make_tree(own_store.root.parent / "py")
    words = ("/usr/bin/python3", "-S", "-E", "-B", "/app/server.py")
    own_store.ok(
        "build", tree, "-t", "server:v1", *(part for word in words for part in ("--cmd", word))
    )
    own_store.ok(
        "run", "server:v1", "-d", "--name", "web", "-p", f"{port}:8000",
        "--ready", "http://127.0.0.1:8000/",
    )  # fmt: skip
    own_store.ok("snapshot", "web", "-t", "snap:v1")
    refused(own_store("restore", "snap:v1", "--fallback", "--json"), USER, "stateful", "--fallback")
    small = own_store("restore", "snap:v1", "--name", "small", "--memory", "4m", "--json")
    refused(small, USER, "memory", "--memory")
    assert "small" not in own_store.names()
    refused(own_store("run", "snap:v1", "--json"), USER, "is a snapshot", "hotstart restore")
    refused(own_store("snapshot", "web", "-t", "again:v1", "--json"), USER, "web", "running")

    own_store.ok("restore", "snap:v1", "-d", "--name", "first", "-p", f"{port}:8000")
    refused(own_store("restore", "snap:v1", "-d", "--json"), CONFLICT, "--allow-clones")
    own_store.ok("restore", "snap:v1", "-d", "--name", "twin", "--allow-clones")
    own_store.ok("agent", "stop", "--all")

    key = own_store.root / "keys/node.ed25519"
    key.rename(key.with_suffix(".away"))
    refused(own_store("restore", "snap:v1", "--json"), INTEGRITY, "--trust-unsigned")
    refused(own_store("verify", "snap:v1", "--json"), INTEGRITY, "signed by")
    own_store.ok("agent", "stop", "--all")
    key.with_suffix(".away").rename(key)

    image = own_store.ok("inspect", "server:v1", "--json").document
    blob = Path(own_store.store) / "blobs/sha256" / image["bootstrap"]["digest"][7:]
    blob.rename(blob.with_suffix(".away"))
    _forget_cache(own_store.root)
    refused(own_store("restore", "snap:v1", "--json"), NOT_FOUND, "image server:v1")
    own_store.nothing_runs()


def test_options_that_cannot_be_met(hotstart, scratch):
    refused(
        hotstart("run", "shell:v1", "-v", f"{scratch / 'none'}:/data", "--json", "--", "/bin/true"),
        NOT_FOUND, "volume", "none",
    )  # fmt: skip
    refused(
        hotstart("run", "shell:v1", "--user", "nobody-here", "--json", "--", "/bin/true"),
        USER, "nobody-here",
    )  # fmt: skip
    refused(hotstart("run", "shell:v1", "--ready", "tcp:none", "--json"), USER, "probe")
    assert hotstart.names() == []


def test_unknown_containers(hotstart):
    hotstart.ok("agent", "start")
    for words in (("stop", "none"), ("wait", "none"), ("logs", "none"), ("exec", "none", "ls")):
        refused(hotstart(*words, "--json"), NOT_FOUND, "no container none")
    refused(hotstart("snapshot", "none", "-t", "x:v1", "--json"), NOT_FOUND, "no container none")
    refused(hotstart("umount", "/nowhere", "--json"), NOT_FOUND, "/nowhere")


def test_mounting_where_one_cannot(hotstart, scratch):
    missing = hotstart("mount", "shell:v1", scratch / "none", "--json")
    refused(missing, NOT_FOUND, "no such directory")
    (scratch / "full").mkdir()
    (scratch / "full/file").touch()
    refused(hotstart("mount", "shell:v1", scratch / "full/file", "--json"), USER, "not a directory")
    refused(hotstart("mount", "shell:v1", scratch / "full", "--json"), USER, "not empty")
    (scratch / "empty").mkdir()
    refused(
        hotstart("mount", "shell:v1", scratch / "empty", "--filler", "fuse", "--json"),
        CONFLICT, "fuse",
    )  # fmt: skip
    refused(hotstart("agent", "start", "--filler", "fuse", "--json"), CONFLICT, "not by fuse")
    assert hotstart.ok("mounts", "--json").document["mounts"] == []
