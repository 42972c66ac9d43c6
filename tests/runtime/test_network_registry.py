"""Who has which subnet and port of this machine: never two at once."""

import ipaddress
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.network_registry import NetworkRegistry, NoSubnetLeft, PortInUse

_WHOLE_RANGE = [ipaddress.IPv4Network("10.201.0.0/16")]


@pytest.fixture
def registry_of(tmp_path):
    def of(name):
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        return NetworkRegistry(root, tmp_path / "run")

    return of


def test_roots_get_subnets_of_their_own_and_keep_them(registry_of):
    first, second = registry_of("a"), registry_of("b")
    subnet = first.claim_subnet(list)
    assert second.claim_subnet(list) != subnet
    assert first.claim_subnet(list) == subnet


def test_many_roots_at_once_never_share_a_subnet(registry_of):
    registries = [registry_of(f"root-{number}") for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        subnets = list(threads.map(lambda one: one.claim_subnet(list), registries))
    assert len(set(subnets)) == 24


def test_routed_subnets_are_left_alone(registry_of):
    routed = [ipaddress.IPv4Network("10.201.0.0/23"), ipaddress.IPv4Network("10.201.2.0/25")]
    assert str(registry_of("a").claim_subnet(lambda: routed)) == "10.201.3.0/24"
    with pytest.raises(NoSubnetLeft):
        registry_of("b").claim_subnet(lambda: _WHOLE_RANGE)


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
        (("0.0.0.0", 80), ("127.0.0.1", 80)),
        (("127.0.0.1", 80), ("0.0.0.0", 80)),
    ],
)
def test_port_of_another_root_is_refused(registry_of, held, wanted):
    first, second = registry_of("a"), registry_of("b")
    first.claim_subnet(list)
    second.claim_subnet(list)
    first.claim_ports([held])
    with pytest.raises(PortInUse, match=r"agent at .*/a"):
        second.claim_ports([("127.0.0.1", 81), wanted])
    second.claim_ports([("127.0.0.1", 81), ("10.0.0.1", 82)])
    first.release_ports([held])
    second.claim_ports([wanted])


def test_claims_of_roots_that_are_gone_count_for_nothing(registry_of, tmp_path):
    first, second = registry_of("a"), registry_of("b")
    subnet = first.claim_subnet(list)
    second.claim_subnet(list)
    first.claim_ports([("127.0.0.1", 80)])
    (tmp_path / "a").rmdir()
    second.claim_ports([("127.0.0.1", 80)])
    assert registry_of("c").claim_subnet(list) == subnet


def test_claims_of_an_earlier_boot_count_for_nothing(registry_of, tmp_path):
    first = registry_of("a")
    subnet = first.claim_subnet(list)
    first.claim_ports([("127.0.0.1", 80)])
    file = tmp_path / "run" / "network.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot": "another"}))
    second = registry_of("b")
    assert second.claim_subnet(list) == subnet
    second.claim_ports([("127.0.0.1", 80)])
    assert first.claim_subnet(list) != subnet
    with pytest.raises(PortInUse):
        first.claim_ports([("127.0.0.1", 80)])


def test_only_kept_ports_survive_an_agent(registry_of):
    first, second = registry_of("a"), registry_of("b")
    first.claim_subnet(list)
    second.claim_subnet(list)
    first.claim_ports([("127.0.0.1", 80), ("127.0.0.1", 81)])
    first.forget_ports(keep=[("127.0.0.1", 81)])
    second.claim_ports([("127.0.0.1", 80)])
    with pytest.raises(PortInUse):
        second.claim_ports([("127.0.0.1", 81)])
    first.release_subnet()
    second.claim_ports([("127.0.0.1", 81)])
