"""The surroundings of a miss come with it, and more of them the more misses lie close by."""

from hotstart.core.span import PAGE, Span
from lazyfs.read_around import (
    FIRST_BYTES,
    KEPT_STRETCHES,
    MOST_BYTES,
    STRETCH_BYTES,
    ReadAround,
)

DEVICE = "sha256:" + "1" * 64
SIZE = 4 * STRETCH_BYTES


def at(offset):
    return Span(offset, PAGE)


def test_the_first_window_has_the_miss_in_its_middle():
    window = ReadAround().window(DEVICE, at(1 << 20), SIZE)
    assert window == Span((1 << 20) - FIRST_BYTES // 2, FIRST_BYTES)


def test_misses_in_one_stretch_double_it_up_to_a_limit():
    around = ReadAround()
    lengths = [around.window(DEVICE, at(STRETCH_BYTES // 2), SIZE).length for _ in range(8)]
    assert lengths[:3] == [FIRST_BYTES, 2 * FIRST_BYTES, 4 * FIRST_BYTES]
    assert lengths[-1] == MOST_BYTES


def test_another_stretch_and_another_device_begin_anew():
    around = ReadAround()
    around.window(DEVICE, at(STRETCH_BYTES // 2), SIZE)
    for device, offset in ((DEVICE, STRETCH_BYTES + MOST_BYTES), ("other", STRETCH_BYTES // 2)):
        assert around.window(device, at(offset), SIZE).length == FIRST_BYTES


def test_it_stays_on_the_device_and_holds_all_of_the_miss():
    around = ReadAround()
    assert around.window(DEVICE, at(0), SIZE).offset == 0
    assert around.window(DEVICE, at(SIZE - PAGE), SIZE).end == SIZE
    large = Span(STRETCH_BYTES, 3 * FIRST_BYTES)
    window = around.window("large", large, SIZE)
    assert window.offset <= large.offset
    assert large.end <= window.end


def test_it_remembers_the_stretches_missed_in_last_and_no_more():
    around = ReadAround()
    stretches = 2 * KEPT_STRETCHES
    size = stretches * STRETCH_BYTES
    for number in range(stretches):
        around.window(DEVICE, at(0), size)
        around.window(DEVICE, at(number * STRETCH_BYTES), size)
    assert len(around._next) == KEPT_STRETCHES
    assert around.window(DEVICE, at(0), size).length > FIRST_BYTES, "missed in all the time"
    assert around.window(DEVICE, at(STRETCH_BYTES + MOST_BYTES), size).length == FIRST_BYTES
