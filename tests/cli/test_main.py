"""The frame of the command line: global flags, usage errors, JSON errors, late imports."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from cli import main as cli_main
from cli.settings import DEFAULT_ROOT, Settings

SOURCE = Path(cli_main.__file__).parents[1]


def call(words, capsys):
    settings = Settings()
    status = cli_main.run(words, settings)
    out, err = capsys.readouterr()
    return status, out, err, settings


def test_global_flags_work_before_and_after_the_command(tmp_path, capsys):
    before = call(["--root", str(tmp_path), "--json", "ps"], capsys)
    after = call(["ps", "--root", str(tmp_path), "--json"], capsys)
    assert before[:3] == after[:3] == (0, '{\n  "containers": []\n}\n', "")


def test_the_later_flag_wins(tmp_path, capsys):
    *_, settings = call(["--root", "/elsewhere", "ps", "--root", str(tmp_path)], capsys)
    assert settings.root == tmp_path


def test_flags_after_two_dashes_belong_to_the_program(tmp_path, capsys):
    status, out, err, settings = call(
        ["exec", "--root", str(tmp_path), "web", "--", "ls", "--json"], capsys
    )
    assert (status, out, settings.json) == (101, "", False)
    assert "no container web" in err


def test_environment_gives_defaults(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOTSTART_ROOT", str(tmp_path))
    monkeypatch.setenv("HOTSTART_STORE", "s3://bucket/prefix")
    *_, settings = call(["ps"], capsys)
    assert (settings.root, settings.store_url) == (tmp_path, "s3://bucket/prefix")
    *_, settings = call(["--root", "/x", "ps"], capsys)
    assert settings.root == Path("/x")


def test_the_default_store_lies_in_the_root():
    assert Settings().store_url == f"file://{DEFAULT_ROOT}/store"
    assert Settings(store="some/dir").store_url == f"file://{Path('some/dir').absolute()}"


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["run"],
        ["exec", "web"],
        ["run", "app", "-p", "80"],
        ["run", "app", "-p", "0:80"],
        ["run", "app", "-v", "/only-one"],
        ["run", "app", "--ready", "ftp://x"],
        ["run", "app", "--env", "FOO"],
        ["run", "app", "--memory", "much"],
        ["run", "app", "--memory", "99999999999t"],
        ["run", "app", "--cpus", "inf"],
        ["run", "app", "--cpus", "nan"],
        ["run", "app", "--ready-timeout", "nan"],
        ["snapshot", "web", "-t", "x", "--stateless", "--stateful"],
        ["stop", "web", "--time", "nan"],
        ["logs", "web", "--tail", "99999999999"],
        ["run", "app", "--weights", "s3://b"],
        ["run", "app", "--gpus", "all"],
        ["restore", "app", "--check"],
        ["mount", "app"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_end_with_2_and_one_sentence(words, capsys):
    status, out, err, _ = call([*words, "--json"] if words[0] == "run" else words, capsys)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    if out:
        error = json.loads(out)["error"]
        assert error["kind"] == "usage"
        assert sorted(error) == ["class", "code", "hint", "kind", "message"]


def test_a_mistyped_command_is_named(capsys):
    assert "did you mean 'build'?" in call(["biuld"], capsys)[2]


def test_errors_are_a_document_too(tmp_path, capsys):
    store = f"file://{tmp_path}/none"
    status, out, err, _ = call(["--store", store, "inspect", "nothing:v1", "--json"], capsys)
    error = json.loads(out)["error"]
    assert (status, error["code"], error["kind"]) == (101, 101, "not_found")
    assert error["message"] in err


def test_every_command_has_help_and_the_global_flags(capsys):
    for name in cli_main.COMMANDS:
        status, out, _, _ = call([name, "--help"], capsys)
        assert status == 0
        if name not in ("agent", "bench"):
            assert "--root DIR" in out, name


def test_the_table_of_commands_says_what_each_says_of_itself():
    for name, entry in cli_main.COMMANDS.items():
        found = getattr(import_module(entry.module), entry.attribute)
        assert isinstance(found, click.Command)
        assert found.name == name


def test_ps_and_help_import_neither_image_builder_nor_rich(tmp_path):
    program = (
        "import sys; from cli import main; from cli.settings import Settings;"
        f"main.run(['ps', '--root', {str(tmp_path)!r}], Settings());"
        "heavy = {'rich', 'image_builder', 'obstore', 'boto3', 'pyroute2', 'lazyfs', 'bench'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "app:v1"],
        ["agent", "start"],
        ["pull", "app:v1"],
        ["agent", "run"],
        ["bench", "cold-start"],
        ["bench", "fs", "--quick"],
    ],
    ids=" ".join,
)
def test_who_is_not_root_is_told_so_before_anything_is_made(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    root = tmp_path / "root"
    status, _, err, _ = call(["--root", str(root), *words], capsys)
    assert status == 100
    assert "needs root; run it as root" in err
    assert not root.exists()


@pytest.mark.parametrize("words", [["agent", "start"], ["run", "app:v1"], ["agent", "run"]])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_root_that_is_no_directory_is_a_sentence(words, place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "file").touch()
    status, _, err, _ = call(["--root", str(tmp_path / place), *words], capsys)
    assert status == 100
    assert "choose another --root" in err
    assert len(err.strip().splitlines()) == 1


def test_doctor_explains_every_ability(tmp_path, capsys):
    status, out, _, _ = call(["doctor", "--json", "--root", str(tmp_path)], capsys)
    document = json.loads(out)
    missing = [f for f in document["features"] if f["required"] and not f["present"]]
    assert status == (105 if missing else 0)
    assert document["fit"] is not bool(missing)
    assert all(feature["reason"] for feature in document["features"])
    assert document["filler"]["why"]


def test_doctor_names_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOTSTART_CRIU", str(tmp_path / "none"))
    monkeypatch.setattr("cli.doctor_cmd.INSTALLED", tmp_path / "none")
    status, out, err, _ = call(["doctor", "--root", str(tmp_path)], capsys)
    assert status == 105
    assert "MISSING  criu" in out
    assert "this host lacks" in err
    assert "criu" in err


def test_agents_of_a_benchmark_share_no_metrics_address(monkeypatch):
    bench_cmd = import_module("cli.bench_cmd")
    monkeypatch.setenv("HOTSTART_METRICS", "127.0.0.1:9464")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    environment = bench_cmd._environment()
    assert "HOTSTART_METRICS" not in environment
    assert environment["AWS_PROFILE"] == "mine"


@pytest.mark.parametrize("command", ["run", "start"])
def test_an_address_of_metrics_that_is_none_is_a_usage_error(command, capsys):
    status, _, err, _ = call(["agent", command, "--metrics", "9464"], capsys)
    assert status == 2
    assert "write HOST:PORT, for example 127.0.0.1:9464" in err


def commands(command=cli_main.hotstart_command, name=""):
    """Yield every command, groups of groups taken apart, with its words."""
    if isinstance(command, click.Group):
        for word in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), word)
            yield from commands(inner, f"{name} {word}".strip())
    else:
        yield name, command


def described_options(name):
    """Return what docs/cli.md says of a command's own options."""
    text = (SOURCE / "docs" / "cli.md").read_text(encoding="utf-8")
    if name in ("run", "restore"):
        return text.partition("### Options of run and restore")[2].partition("###")[0]
    table = text.partition("### Options of the other commands")[2].partition("\n### ")[0]
    rows = (line for line in table.splitlines() if line.startswith("| `"))
    return "".join(row for row in rows if f"`{name}`" in row.split(" | ")[0])


def test_every_option_of_every_command_stands_in_the_table_of_the_page():
    usual = {"--store", "--root", "--json"}
    missing = [
        (name, option)
        for name, command in commands()
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts]
        if option.startswith("--") and option not in usual
        if not re.search(rf"`{option}[ `]", described_options(name))
    ]
    assert missing == []
    assert "`--version`" in described_options("hotstart")


def test_a_root_or_store_that_is_something_else_is_not_taken_for_an_empty_one(tmp_path, capsys):
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("words")
    (other / "things").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    status, _, err, _ = call(["--root", str(file), "ps"], capsys)
    assert (status, "not a directory" in err) == (100, True)
    status, _, err, _ = call(["--store", str(other), "images"], capsys)
    assert (status, "no store" in err) == (101, True)
    assert call(["--store", str(tmp_path / "empty"), "images"], capsys)[0] == 0
