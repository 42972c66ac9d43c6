"""What a caller may ask for, and how it is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.errors import UserError
from runtime.container_spec import (
    ContainerSpec,
    PortMapping,
    Volume,
    check_name,
    generate_name,
    parse_memory,
)


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("8080:80", PortMapping(8080, 80)),
        ("0.0.0.0:1:65535", PortMapping(1, 65535, "0.0.0.0")),
        ("10.0.0.1:8080:80", PortMapping(8080, 80, "10.0.0.1")),
    ],
)
def test_port_mapping_is_read(text, mapping):
    assert PortMapping.parse(text) == mapping


@pytest.mark.parametrize(
    "text",
    ["", "80", "80:", ":80", "0:80", "80:65536", "x:80", "localhost:80:80", "1:2:3:4", "²:1"],
)
def test_other_port_mappings_are_refused(text):
    with pytest.raises(UserError):
        PortMapping.parse(text)


def test_port_without_address_is_for_this_machine():
    assert PortMapping(1, 2).listen_address == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/a:/b:ro", Volume("/a", "/b", True)),
        ("/a:/b/c:rw", Volume("/a", "/b/c")),
    ],
)
def test_volume_is_read(text, volume):
    assert Volume.parse(text) == volume


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "a:/b", "/a:b", "/a:/", "/a:/b/..", "/a:/proc/x", "/a:/b:xx", "/a:/dev"),
        "/a:/./sys",
    ],
)
def test_other_volumes_are_refused(text):
    with pytest.raises(UserError):
        Volume.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("2G", 2 << 30), ("1048576", 1 << 20), ("3gib", 3 << 30)],
)
def test_memory_is_read(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5g", "1x", "9" * 30])
def test_other_amounts_are_refused(text):
    with pytest.raises(UserError):
        parse_memory(text)


@pytest.mark.parametrize("name", ["a", "web-1", "a.b_c", "0" * 63])
def test_name_is_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "A", "a" * 64, "a\n", "ä"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError):
        check_name(name)


def test_generated_names_are_allowed_and_differ():
    names = {generate_name() for _ in range(50)}
    assert len(names) > 40
    assert all(check_name(name) for name in names)


@pytest.mark.parametrize(
    "fields",
    [
        {"env": ("NOVALUE",)},
        {"env": ("=x",)},
        {"memory_bytes": 1},
        {"cpus": 0.0},
        {"cpus": float("nan")},
        {"ready_timeout_s": 0},
        {"workdir": "relative"},
        {"hostname": "a b"},
        {"argv": ("a\0b",)},
        {"ports": (PortMapping(1, 2), PortMapping(1, 3))},
        {"volumes": (Volume("/a", "/x"), Volume("/b", "/x/"))},
    ],
)
def test_impossible_specs_are_refused(fields):
    with pytest.raises(UserError):
        ContainerSpec(name="x", **fields)


_ports = st.builds(PortMapping, st.integers(1, 65535), st.integers(1, 65535))


@given(
    st.none() | st.lists(st.text(st.characters(exclude_characters="\0"))).map(tuple),
    st.lists(_ports, unique_by=lambda port: port.host).map(tuple),
    st.none() | st.integers(4 << 20, 1 << 40),
)
def test_spec_survives_json(argv, ports, memory):
    spec = ContainerSpec(name="x", argv=argv, ports=ports, memory_bytes=memory, env=("A=b",))
    assert ContainerSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_spec_of_another_version_is_refused():
    with pytest.raises(UserError, match="gpus"):
        ContainerSpec.from_dict({"name": "x", "gpus": "all"})


def test_a_port_that_is_published_twice_is_named_as_people_write_it():
    ports = (PortMapping(8223, 8000), PortMapping(8223, 8001))
    with pytest.raises(UserError, match=r"port 127\.0\.0\.1:8223 is published twice"):
        ContainerSpec(name="a", ports=ports)
