"""Settings: precedence, and bad ones named by where they stand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotstart.core.config import SETTINGS, BadSetting, documentation, load


def test_defaults_hold_when_nothing_is_given():
    config = load()
    assert config.root == Path("/var/lib/hotstart")
    assert config.store == "file:///var/lib/hotstart/store"
    assert config.filler == "auto"


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = tmp_path / "hotstart.toml"
    file.write_text('root = "/file"\nfiller = "fuse"\nlog_level = "ERROR"\n')
    environment = {"HOTSTART_ROOT": "/environment", "HOTSTART_FILLER": "fanotify"}
    config = load(flags={"root": "/flag", "filler": None}, environment=environment, file=file)
    assert (str(config.root), config.filler, config.log_level) == ("/flag", "fanotify", "ERROR")
    assert config.store == "file:///flag/store"


def test_a_bare_path_is_a_directory_store(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load(flags={"store": "images"}).store == f"file://{tmp_path}/images"
    assert load(flags={"store": "s3://bucket/prefix"}).store == "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('filler = "fast"', "filler can't be 'fast'"),
        ("filler = 3", "filler is not a text"),
        ('colour = "red"', "no setting 'colour'"),
        ('store = "ftp://x"', "store can't be 'ftp://x'"),
        ('[root]\nx = "1"', "root is not a text"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, said):
    file = tmp_path / "hotstart.toml"
    file.write_text(f"# settings\n\n{line}\n")
    with pytest.raises(BadSetting) as caught:
        load(file=file)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{file}:3: ")
    assert caught.value.hint


def test_a_bad_line_is_refused_even_where_a_flag_would_win(tmp_path):
    file = tmp_path / "hotstart.toml"
    file.write_text('filler = "fast"\n')
    with pytest.raises(BadSetting):
        load(flags={"filler": "fuse"}, file=file)


@pytest.mark.parametrize("content", [b"root = ", b"\xff\xfe", b'root = "a"\nroot = "b"\n'])
def test_what_is_no_toml_is_refused_with_the_file_named(tmp_path, content):
    file = tmp_path / "hotstart.toml"
    file.write_bytes(content)
    with pytest.raises(BadSetting, match=r"hotstart\.toml"):
        load(file=file)


def test_a_missing_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(BadSetting, match=r"absent\.toml"):
        load(file=tmp_path / "absent.toml")


def test_a_bad_variable_or_flag_is_named():
    with pytest.raises(BadSetting, match="HOTSTART_FILLER: filler can't be ''"):
        load(environment={"HOTSTART_FILLER": ""})
    with pytest.raises(BadSetting, match="--log-level: log_level can't be 'loud'"):
        load(flags={"log_level": "loud"})


def test_every_setting_is_documented_and_its_default_can_be_given():
    rows = list(documentation())
    assert len(rows) == len(SETTINGS)
    for key, variable, flag, _default, text in rows:
        assert variable == f"HOTSTART_{key.upper()}"
        assert flag.startswith("--")
        assert text.endswith(".")
    for setting in SETTINGS:
        if setting.default:
            assert setting.parse(setting.default) == setting.default


@settings(derandomize=True, max_examples=50)
@given(st.dictionaries(st.sampled_from([s.variable for s in SETTINGS]), st.text()))
def test_a_bad_variable_is_refused_and_nothing_else_raises(environment):
    known = {setting.variable: setting for setting in SETTINGS}
    bad = {name for name, text in environment.items() if not _parses(known[name], text)}
    if not bad:
        load(environment=environment)
        return
    with pytest.raises(BadSetting) as caught:
        load(environment=environment)
    assert caught.value.source in bad


def _parses(setting, text):
    try:
        setting.parse(text)
    except ValueError:
        return False
    return True
