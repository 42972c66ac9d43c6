"""A small image with Python and one server program, in a store; and a container started from it."""

import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from hotstart.core import canonical_json
from hotstart.core.phases import Phases
from hotstart.core.progress import NullSink
from hotstart.kernel.cgroup import Group, hierarchies
from hotstart.store import media_types
from hotstart.store.descriptor import Descriptor
from hotstart.store.manifest import ImageManifest
from hotstart.store.signing import NodeKey
from hotstart.store.stack import open_store
from image_builder.build_tree import build_tree
from image_builder.directory import scan
from lazyfs.spec import MountSpec
from runtime.bundle import write_bundle
from runtime.capture import Capturer, Subject
from runtime.conmon import Conmon
from runtime.container_directory import ContainerDirectory
from runtime.container_spec import ContainerSpec
from runtime.containers import end_processes
from runtime.dev_shm import mount_dev_shm
from runtime.golden_client import GoldenUnanswered, send
from runtime.network import NetworkPool
from runtime.restore import Restorer, RestoreTools
from runtime.rootfs import mount_rootfs, write_host_files
from runtime.runc import Programs, Runc
from runtime.snapshot_files import write_criu_config
from runtime.thaw import ThawTools
from snapshotter.criu import CriuFront
from snapshotter.fingerprint import collect
from snapshotter.golden import parse
from tests.fakes.local_images import LocalImages, StoreFill
from tests.snapshotter.restored_tree import CRIU, keeper_with_page_worker, wait_for

PORT = 8000
GOLDEN = {"path": "/", "port": PORT, "expect": {"mode": "json"}}
PYTHON = Path("/usr/bin/python3")
SERVER = """
import http.server, json, os, socket, sys, time
MEMORY = bytearray(bytes([1 + os.urandom(1)[0] % 255]) * (8 << 20))
state = {"count": 0}
connection = None
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        global connection
        if self.path == "/time":
            return self.answer({"time": time.monotonic_ns()})
        if self.path == "/connect":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect("/host/socket")
        if self.path == "/zombie" and os.fork() == 0:
            os._exit(0)
        if self.path == "/volume":
            with open("/host/written", "a") as file:
                file.write("x")
        self.answer({"count": state["count"], "memory": sum(MEMORY[::4096]),
                     "file": open("/var/state").read()})
    def do_POST(self):
        state["count"] += 1
        with open("/var/state", "w") as file:
            file.write("count %d" % state["count"])
        self.answer(state)
open("/var/state", "w").write("fresh")
print("serving", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
"""


def make_tree(path):
    """Put Python, its libraries and the server below ``path``: about 40 MB, 0.3 s."""
    program = PYTHON.resolve()
    (path / "usr/bin").mkdir(parents=True)
    shutil.copy2(program, path / "usr/bin/python3")
    version = re.search(r"python3\.\d+", program.name)[0]
    library = Path("/usr/lib") / version
    skip = shutil.ignore_patterns(
        "test", "tests", "idlelib", "ensurepip", "config-*", "__pycache__"
    )
    shutil.copytree(
        library,
        path / "usr/lib" / version,
        ignore=skip,
        symlinks=False,
        ignore_dangling_symlinks=True,
    )
    modules = [str(file) for file in (library / "lib-dynload").glob("_socket*.so")]
    listed = subprocess.run(["ldd", program, *modules], capture_output=True, text=True).stdout
    for name in set(re.findall(r"(/\S+\.so\S*)", listed)):
        target = path / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(Path(name).resolve(), target)
    for name in ("app", "var", "tmp", "proc", "sys", "dev", "etc", "host"):
        (path / name).mkdir(exist_ok=True)
    (path / "host/data").mkdir()
    (path / "link").symlink_to("host")
    (path / "app/server.py").write_text(SERVER)
    return path


class SmallNode:
    """What an agent would hold, for one root. ``user`` is whom the image's config names."""

    def __init__(self, root, user=""):
        self.root = root
        self.user = user
        self.stack = ExitStack()
        self.store = open_store(str(root / "store"))
        self.image = self._build(make_tree(root / "tree"))
        self.images = LocalImages(root / "cache", StoreFill(self.store))
        self.networks = NetworkPool(root, spare=0)
        self.stack.callback(self.networks.close, remove=True)
        self.keeper, self.pages = self.stack.enter_context(keeper_with_page_worker(root / "run"))
        self.front = CriuFront(root / "criu", Path(CRIU))
        self.front.install()
        self.key = NodeKey.load_or_create(root / "keys" / "node")
        self.programs = Programs.find()
        self.host = collect(
            cgroup_mode=hierarchies().mode, criu=str(self.front.version), runc="1.1"
        )
        self.tools = RestoreTools(
            ThawTools(self.programs, self.front, self.pages),
            self.images,
            self.images,
            self.images,
            self.networks,
            lambda: self.host,
            lambda: [self.key.public],
            self.wait_ready,
            Group.named(f"/hotstart-test-{os.getpid()}"),
        )
        self.stack.callback(self.tools.cgroup_parent.remove)
        self.capturer = Capturer(self.tools, root / "tmp", self.key)
        self.restorer = Restorer(self.tools)

    def _build(self, tree):
        if self.user:
            shutil.chown(tree / "var", int(self.user))
        command = ["/usr/bin/python3", "-S", "-E", "-B", "/app/server.py"]
        config = canonical_json.encode(
            {"config": {"Cmd": command, "User": self.user, "StopSignal": "SIGINT"}}
        )
        descriptor = Descriptor.of(media_types.OCI_CONFIG, config)
        self.store.blobs.put(descriptor.digest, config)
        built = build_tree(scan(os.fsencode(tree)).tree, self.store)
        return ImageManifest(descriptor, built.bootstrap, built.devices)

    def wait_ready(self, directory, network, probe, timeout_s):
        wait_for(lambda: self.ask(network, {"path": "/", "port": PORT}), "readiness", timeout_s)

    def ask(self, network, request):
        try:
            return json.loads(send(request_of(request), network.path, None).body)
        except GoldenUnanswered:
            return None

    def container(self, name, volumes=()):
        return Container(self, name, volumes)

    def restore(self, reference, name, volumes=(), **limits):
        phases = Phases()
        directory = ContainerDirectory.of(self.root, name)
        directory.create()
        try:
            snapshot = self.restorer.load(self.store, reference, phases)
            spec = ContainerSpec(name=name, volumes=volumes, **limits)
            restored = self.restorer.restore(snapshot, spec, directory, phases)
        except BaseException:
            directory.remove()
            raise
        return RestoredContainer(self, directory, restored)

    def close(self):
        self.stack.close()


class Capturable:
    """A container of ``node`` that is known as ``subject``."""

    def capture(self, reference, *goldens, **options):
        return self.node.capturer.capture(
            self.subject,
            self.node.store,
            reference,
            goldens=[json.dumps(golden) for golden in goldens],
            progress=NullSink(),
            phases=Phases(),
            **options,
        )


class Container(Capturable):
    """A container started cold; ends with the block."""

    def __init__(self, node, name, volumes):
        self.node = node
        self.stack = ExitStack()
        self.spec = ContainerSpec(name=name, ready=f"http://127.0.0.1:{PORT}/", volumes=volumes)
        self.directory = ContainerDirectory.of(node.root, name)
        self.directory.create()
        self.stack.callback(self.directory.remove)
        spec = MountSpec.of(node.image, node.store.url)
        mounted = node.images.mount(spec, read_ahead_kib=128)
        self.stack.callback(mounted.release)
        self.network = node.networks.acquire()
        self.stack.callback(node.networks.release, self.network)
        mount_dev_shm(self.directory.dev, self.directory.shm)
        place = self.directory
        self.stack.callback(place.unmount_all)
        mount_rootfs([mounted.path], place.upper, place.work, place.rootfs)
        write_host_files(place.rootfs, name, "")
        write_bundle(
            place,
            self.spec,
            json.loads(node.store.blobs.read(node.image.config.digest)),
            netns=self.network.path,
            cgroup=node.tools.cgroup_parent.child(name).path,
            criu_config=write_criu_config(place),
        )
        env = node.front.environment()
        self.runc = Runc(node.programs, place, env=env)
        self.stack.callback(self.runc.delete, force=True)
        Conmon(node.programs, place, env=env).create()
        self.runc.start()
        node.wait_ready(place, self.network, self.spec.ready, 30)

    @property
    def subject(self):
        return Subject(
            directory=self.directory,
            spec=self.spec,
            network=self.network,
            image=self.node.image,
            image_reference="small:latest",
        )

    def ask(self, **request):
        return self.node.ask(self.network, {"port": PORT, **request})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()


class RestoredContainer(Capturable):
    """A restored container; ends with the block."""

    def __init__(self, node, directory, restored):
        self.node = node
        self.directory = directory
        self.restored = restored

    @property
    def subject(self):
        return Subject(
            directory=self.directory,
            spec=self.restored.spec,
            network=self.restored.network,
            image=self.node.image,
            image_reference="small:latest",
        )

    def ask(self, **request):
        return self.node.ask(self.restored.network, {"port": PORT, **request})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        env = self.node.front.environment()
        runc = Runc(self.node.programs, self.directory, env=env)
        end_processes(runc, self.node.tools.cgroup_parent.child(self.directory.name))
        self.node.pages.close(self.restored.session, force=True)
        self.node.networks.release(self.restored.network)
        self.directory.remove()
        for mounted in self.restored.mounts:
            mounted.release()


def request_of(value):
    return parse(json.dumps(value).encode(), "request")
