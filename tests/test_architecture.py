"""The rules that keep the packages apart, read from the source and enforced.

A file is parsed once; each rule is a test over all files, and its message names file and line.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

# Left may be imported by right; those with the same number never meet.
LEVELS = {
    "hotstart.core": 0,
    "hotstart.kernel": 1,
    "hotstart.store": 2,
    "image_builder": 3,
    "lazyfs": 3,
    "snapshotter": 3,
    "runtime": 4,
    "agent": 5,
    "bench": 6,
    "cli": 7,
}
PACKAGES = (
    "hotstart",
    "image_builder",
    "lazyfs",
    "snapshotter",
    "runtime",
    "agent",
    "bench",
    "cli",
)
# Runs inside the container, with neither Hotstart nor its rules about environment and output.
INSIDE = "bench/workload/server.py"
# `python -m` entry points. The keeper must import the standard library only.
MAIN_MODULES = {
    "agent/main.py",
    "agent/proto/generate.py",
    "lazyfs/worker.py",
    "lazyfs/fuse_filler.py",
    "snapshotter/page_worker.py",
    "hotstart/kernel/keeper.py",
    INSIDE,
}
SPAWNERS = {"hotstart/core/run.py", "hotstart/kernel/keeper.py"}
VAGUE = {"utils", "util", "common", "manager", "helpers", "misc"}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 50


class Source:
    """One parsed file of ours."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(CHECKOUT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @property
    def package(self) -> str:
        parts = self.name.split("/")
        return ".".join(parts[:2]) if parts[0] == "hotstart" and len(parts) > 2 else parts[0]

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """Line, module and the names taken from it."""
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name, ()) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.append((node.lineno, node.module, tuple(a.name for a in node.names)))
        return found

    def modules(self):
        """Line and full name of everything imported, names taken from packages included."""
        for line, module, names in self.imports:
            yield line, module
            for name in names:
                yield line, f"{module}.{name}"


def sources(*folders: str) -> list[Source]:
    paths = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    return [_source(path) for path in paths if "generated" not in path.parts]


@functools.cache
def _source(path: Path) -> Source:
    return Source(path)


def shipped() -> list[Source]:
    return sources(*PACKAGES)


def refuse(offences) -> None:
    found = list(offences)
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_rules_look_at_every_package():
    looked_at = {source.package for source in shipped()}
    assert looked_at - {"hotstart"} == set(LEVELS)


def test_imports_go_one_way():
    def offences():
        for source in shipped():
            level = LEVELS.get(source.package)
            if level is None:
                continue
            for line, module in source.modules():
                other = next((p for p in LEVELS if f"{module}.".startswith(f"{p}.")), None)
                if other and other != source.package and LEVELS[other] >= level:
                    yield f"{source.name}:{line}: {source.package} must not import {module}"

    refuse(offences())


def test_nothing_shipped_imports_tests_or_tools():
    refuse(
        f"{source.name}:{line}: imports {module}"
        for source in shipped()
        for line, module, _ in source.imports
        if module.split(".")[0] in ("tests", "tools")
    )


def test_private_names_stay_in_their_package():
    refuse(
        f"{source.name}:{line}: takes {name} from {module}"
        for source in shipped()
        for line, module, names in source.imports
        if module.split(".")[0] in PACKAGES and not f"{module}.".startswith(f"{source.package}.")
        for name in (*names, *module.split("."))
        if name.startswith("_")
    )


def test_core_and_keeper_import_the_standard_library_only():
    import sys

    def foreign(source):
        allowed = {*sys.stdlib_module_names, "__future__"}
        if source.package == "hotstart.core":
            allowed.add("hotstart")
        return [(line, m) for line, m, _ in source.imports if m.split(".")[0] not in allowed]

    refuse(
        f"{source.name}:{line}: imports {module}"
        for source in shipped()
        if source.package == "hotstart.core" or source.name == "hotstart/kernel/keeper.py"
        for line, module in foreign(source)
    )


def test_only_kernel_talks_to_the_kernel():
    refuse(
        f"{source.name}:{line}: {module} belongs in hotstart/kernel"
        for source in shipped()
        if source.package != "hotstart.kernel"
        for line, module in source.modules()
        if module.split(".")[0] == "ctypes" or module == "fcntl.ioctl"
    )
    refuse(
        f"{source.name}:{node.lineno}: fcntl.ioctl belongs in hotstart/kernel"
        for source in shipped()
        if source.package != "hotstart.kernel"
        for node in source.nodes
        if _dotted(node) == "fcntl.ioctl"
    )


def test_only_run_spawns_processes():
    spawning = re.compile(r"os\.(fork|forkpty|exec\w+|spawn\w+|posix_spawnp?|system|popen)")
    refuse(
        f"{source.name}:{line}: {what} belongs in hotstart/core/run.py"
        for source in shipped()
        if source.name not in SPAWNERS
        for line, what in (
            *((line, m) for line, m in source.modules() if m.split(".")[0] in _SPAWNING_MODULES),
            *((n.lineno, _dotted(n)) for n in source.nodes if spawning.fullmatch(_dotted(n))),
        )
    )


_SPAWNING_MODULES = {"subprocess", "pty", "multiprocessing"}


def test_only_agent_knows_grpc_and_prometheus():
    refuse(
        f"{source.name}:{line}: imports {module}"
        for source in shipped()
        if source.package != "agent"
        for line, module in source.modules()
        if module.split(".")[0] in ("grpc", "google", "prometheus_client")
        or module.startswith("agent.proto")
    )


def test_only_main_modules_and_cli_read_the_environment_or_exit():
    forbidden = {"os.environ", "os.getenv", "os.environb", "sys.argv", "sys.exit", "os._exit"}
    refuse(
        f"{source.name}:{node.lineno}: {ast.unparse(node)} belongs in cli or a main module"
        for source in shipped()
        if source.package != "cli" and source.name not in MAIN_MODULES
        for node in source.nodes
        if _dotted(node) in forbidden
        or (isinstance(node, ast.Call) and _dotted(node.func) in ("exit", "quit", "SystemExit"))
        or (isinstance(node, ast.Raise) and node.exc and _dotted(node.exc) == "SystemExit")
    )


def test_libraries_do_not_print():
    refuse(
        f"{source.name}:{node.lineno}: print"
        for source in shipped()
        if source.package not in ("cli", "bench")
        for node in source.nodes
        if isinstance(node, ast.Call) and _dotted(node.func) == "print"
    )


def test_modules_are_short_and_begin_with_what_they_own():
    def offences():
        for source in [*shipped(), *sources("tools", "tests")]:
            lines = source.text.count("\n")
            if lines > LONGEST_MODULE:
                yield f"{source.name}: {lines} lines, at most {LONGEST_MODULE}"
            if (
                not source.name.startswith("tests/")
                and source.text.strip()
                and not ast.get_docstring(source.tree)
            ):
                yield f"{source.name}: no docstring"

    refuse(offences())


def test_functions_are_short():
    refuse(
        f"{source.name}:{node.lineno}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}"
        for source in [*shipped(), *sources("tools")]
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    )


def test_no_module_has_a_vague_name():
    refuse(source.name for source in shipped() if Path(source.name).stem in VAGUE)


def test_no_unfinished_work_is_noted_in_code():
    unfinished = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    refuse(
        f"{source.name}:{number}: {line.strip()[:80]}"
        for source in [*shipped(), *sources("tools")]
        for number, line in enumerate(source.text.splitlines(), 1)
        if unfinished.search(line)
    )


def test_no_registry_and_no_machine_is_named_anywhere():
    """Hosts are the configuration's business; paths of one machine mean nothing elsewhere."""
    hosts = [f"{name}.org" for name in ("pypi", "pythonhosted", "debian", "pytorch")]
    machine = re.compile(r"(?<![\w.])/(?:work|tmp/boot)/|/root/\.pyenv|/home/\w+/")

    def offences():
        for path in _text_files():
            text = path.read_text(encoding="utf-8", errors="replace")
            for number, line in enumerate(text.splitlines(), 1):
                if machine.search(line) or any(host in line for host in hosts):
                    yield f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()[:80]}"

    refuse(offences())


def _text_files():
    folders = [*PACKAGES, "tools", "tests", "docs", ".ci", "changes"]
    found = [path for folder in folders for path in (CHECKOUT / folder).rglob("*")]
    suffixes = {".py", ".md", ".toml", ".json", ".sh", ".proto", ".html", ".svg", ""}
    for path in [*found, *CHECKOUT.glob("*")]:
        own = path == Path(__file__) or "__pycache__" in path.parts
        if path.is_file() and path.suffix in suffixes and not own:
            yield path


def _dotted(node: ast.AST) -> str:
    """Return a.b.c of an attribute, the name of a name, and an empty text for all else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
