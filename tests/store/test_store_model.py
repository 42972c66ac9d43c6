"""A directory store does whatever the store in memory does, in any order of operations."""

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hotstart.core.digest import Digest
from hotstart.core.errors import HotstartError
from hotstart.core.span import Span
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import ReferenceName
from hotstart.store.stack import open_store
from tests.fakes.memory_store import memory_store

CONTENTS = st.sampled_from([b"", b"a", b"bb", b"ccc" * 1000])
NAMES = st.sampled_from([ReferenceName.parse(text) for text in ("a", "a:b", "a/b", "c/d/e:f")])


def outcome(operation):
    """What an operation gives, or the kind of error that it raises."""
    try:
        return operation()
    except HotstartError as err:
        return type(err)


class StoreMachine(RuleBasedStateMachine):
    """Both stores get each operation; their outcomes must agree."""

    directory: Path
    number = 0

    def __init__(self):
        super().__init__()
        type(self).number += 1
        self.real = open_store(str(self.directory / str(self.number)))
        self.model = memory_store()
        self.versions = {}

    def both(self, operation):
        real, model = outcome(lambda: operation(self.real)), outcome(lambda: operation(self.model))
        assert real == model
        return real

    @rule(content=CONTENTS)
    def put(self, content):
        self.both(lambda store: store.blobs.put(Digest.of(content), content))

    @rule(content=CONTENTS)
    def remove_blob(self, content):
        self.both(lambda store: store.blobs.remove(Digest.of(content)))

    @rule(content=CONTENTS, offset=st.integers(0, 5), length=st.integers(0, 3))
    def read(self, content, offset, length):
        span = Span(offset, length)
        self.both(lambda store: bytes(store.blobs.read(Digest.of(content), span)))
        self.both(lambda store: bytes(store.blobs.read(Digest.of(content))))
        self.both(lambda store: store.blobs.size(Digest.of(content)))

    @rule(name=NAMES, content=CONTENTS, current=st.booleans())
    def swap(self, name, content, current):
        expected = self.versions.get(name) if current else None
        target = Descriptor.of("a/b", content)
        made = self.both(lambda store: store.references.swap(name, target, expected))
        if not isinstance(made, type):
            self.versions[name] = made.version

    @rule(name=NAMES, current=st.booleans())
    def remove_reference(self, name, current):
        expected = self.versions.get(name, "none") if current else "another"
        if self.both(lambda store: store.references.remove(name, expected)) is None:
            del self.versions[name]

    @rule(name=NAMES)
    def get(self, name):
        self.both(lambda store: store.references.get(name))

    @rule()
    def reopen(self):
        self.real = open_store(self.real.url, create=False)

    @invariant()
    def listings_agree(self):
        self.both(lambda store: sorted(store.blobs.digests()))
        self.both(lambda store: list(store.references.names()))


def test_a_directory_store_agrees_with_its_model(tmp_path):
    machine = type("Machine", (StoreMachine,), {"directory": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(derandomize=True, max_examples=20, stateful_step_count=25, deadline=None),
    )
