"""What every ReferenceStore promises. Derive from this with a fixture ``references``."""

import threading

import pytest

from hotstart.core.errors import Conflict, NotFound
from hotstart.store.descriptor import Descriptor
from hotstart.store.references import (
    ReferenceChanged,
    ReferenceName,
    ReferenceNotFound,
)

NAME = ReferenceName.parse("team/app:v1")


def target(text):
    """A descriptor that differs for each text."""
    return Descriptor.of("application/x-test", text.encode(), {"note": text})


class ReferenceStoreContract:
    """Each test gets an empty store as ``references``."""

    race_turns = 5
    racers = 8

    def test_a_created_reference_is_found(self, references):
        made = references.swap(NAME, target("one"), None)
        assert references.get(NAME) == made
        assert made.target == target("one")

    def test_inline_data_is_not_kept(self, references):
        references.swap(NAME, Descriptor.of("a/b", b"content", inline=True), None)
        assert references.get(NAME).target.data is None

    def test_an_absent_reference_is_not_found(self, references):
        with pytest.raises(ReferenceNotFound, match="team/app:v1") as caught:
            references.get(NAME)
        assert isinstance(caught.value, NotFound)

    def test_create_refuses_what_exists(self, references):
        made = references.swap(NAME, target("one"), None)
        with pytest.raises(ReferenceChanged) as caught:
            references.swap(NAME, target("two"), None)
        assert isinstance(caught.value, Conflict)
        assert references.get(NAME) == made

    def test_swap_needs_the_current_version(self, references):
        first = references.swap(NAME, target("one"), None)
        second = references.swap(NAME, target("two"), first.version)
        assert second.version != first.version
        with pytest.raises(ReferenceChanged):
            references.swap(NAME, target("three"), first.version)
        assert references.get(NAME) == second

    def test_swap_of_an_absent_reference_is_refused(self, references):
        first = references.swap(NAME, target("one"), None)
        with pytest.raises(ReferenceChanged):
            references.swap(ReferenceName("other"), target("two"), first.version)

    def test_a_removed_reference_is_gone_and_can_be_created_again(self, references):
        first = references.swap(NAME, target("one"), None)
        references.remove(NAME, first.version)
        with pytest.raises(ReferenceNotFound):
            references.get(NAME)
        assert list(references.names()) == []
        again = references.swap(NAME, target("two"), None)
        assert references.get(NAME) == again

    def test_remove_needs_the_current_version(self, references):
        first = references.swap(NAME, target("one"), None)
        second = references.swap(NAME, target("two"), first.version)
        with pytest.raises(ReferenceChanged):
            references.remove(NAME, first.version)
        assert references.get(NAME) == second

    def test_remove_of_an_absent_reference_is_not_found(self, references):
        with pytest.raises(ReferenceNotFound):
            references.remove(NAME, "any")
        made = references.swap(NAME, target("one"), None)
        references.remove(NAME, made.version)
        with pytest.raises(ReferenceNotFound):
            references.remove(NAME, made.version)

    def test_names_are_sorted_and_nested_names_do_not_collide(self, references):
        texts = ["a:b", "a/b:c", "a/b/c:latest", "a:latest", "z", "hotstart.trace/" + "0" * 64]
        names = [ReferenceName.parse(text) for text in texts]
        for name in names:
            references.swap(name, target(str(name)), None)
        assert list(references.names()) == sorted(names)
        for name in names:
            assert references.get(name).target == target(str(name))

    def test_of_racing_swaps_exactly_one_wins(self, references):
        current = references.swap(NAME, target("start"), None)
        for turn in range(self.race_turns):
            winners = _race(references, current.version, turn, self.racers)
            assert len(winners) == 1
            current = references.get(NAME)
            assert current == winners[0]

    def test_of_racing_creations_exactly_one_wins(self, references):
        for turn in range(self.race_turns):
            winners = _race(references, None, turn, self.racers)
            assert len(winners) == 1
            references.remove(NAME, winners[0].version)


def _race(references, expected, turn, racers):
    """Swap from several threads at once; return the references of those that won."""
    start = threading.Barrier(racers)
    winners, errors = [], []

    def swap(number):
        start.wait()
        try:
            winners.append(references.swap(NAME, target(f"{turn}-{number}"), expected))
        except ReferenceChanged:
            pass
        except Exception as err:
            errors.append(err)

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return winners
