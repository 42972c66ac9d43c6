"""Which filler is taken, and why: what the host can do, what was asked for, what is there."""

import pytest

from agent.filler import choose_filler, filler_route
from hotstart.core.errors import Conflict, Unsupported
from hotstart.kernel.features import Feature
from hotstart.kernel.keeper_client import HandleSet
from hotstart.store.descriptor import Descriptor
from lazyfs.device_handles import KIND, DeviceMeta
from lazyfs.spec import DeviceSpec


class Guard:
    """What is asked of a keeper guard."""

    def __init__(self, *sets):
        self._sets = {held.name: held for held in sets}

    def names(self, kind):
        return [name for name, held in self._sets.items() if held.kind == kind]

    def get(self, name):
        return self._sets.get(name)


def host(**absent):
    """Return a probe in whose answers all is there but what is named."""

    def probe(name, *_):
        reason = absent.get(name, "found")
        return Feature(name, name not in absent, reason, "", True)

    return probe


def served(fuse_target=""):
    table = Descriptor.of("application/x", b"table")
    device = DeviceSpec(4096, table, 5, table.digest, "file:///store")
    meta = DeviceMeta(device, "/d", "/r", "/m", fuse_target=fuse_target)
    return HandleSet("device/a", KIND, meta.to_json(), [])


def test_fanotify_is_taken_where_all_is_there():
    assert filler_route(host())[0] == "fanotify"


@pytest.mark.parametrize("name", ["fanotify_pre_content", "cache_file_system", "erofs_file_backed"])
def test_fuse_is_taken_where_anything_lacks_and_the_reason_is_given(name):
    assert filler_route(host(**{name: "the kernel is too old"})) == (
        "fuse",
        f"{name}: the kernel is too old",
    )


def test_neither_is_an_error_with_both_reasons():
    with pytest.raises(Unsupported, match="too old; and FUSE: no device"):
        filler_route(host(fanotify_pre_content="too old", fuse="no device"))


def test_what_was_asked_for_is_taken_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.filler.probe_one", host(fanotify_pre_content="too old"))
    assert choose_filler(tmp_path, "fuse", Guard()) == "fuse"
    assert choose_filler(tmp_path, "auto", Guard()) == "fuse"
    with pytest.raises(Unsupported, match="needs fanotify_pre_content: too old"):
        choose_filler(tmp_path, "fanotify", Guard())


def test_mounts_that_are_there_decide(tmp_path):
    assert choose_filler(tmp_path, "auto", Guard(served("/fuse/a"))) == "fuse"
    assert choose_filler(tmp_path, "auto", Guard(served())) == "fanotify"
    with pytest.raises(Conflict, match="filled by fuse, not by fanotify"):
        choose_filler(tmp_path, "fanotify", Guard(served("/fuse/a")))
