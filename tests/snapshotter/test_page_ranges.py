"""What waits for which bytes, compared with the plainest model: a dict of pages."""

from hypothesis import given, settings
from hypothesis import strategies as st

from snapshotter.page_ranges import OffsetIndex, PageRanges, Piece

PAGE = 4096
TOP = 64

pages = st.integers(0, TOP - 1)
lengths = st.integers(1, 12)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), pages, lengths, st.just(0)),
        st.tuples(st.just("move"), pages, lengths, st.integers(0, TOP - 1)),
    ),
    max_size=12,
)
layouts = st.lists(st.tuples(pages, lengths), max_size=6)


def build(layout):
    """Lay runs out without overlap; the memory file holds them end to end."""
    model, pieces, offset, taken = {}, [], 0, set()
    for first, count in layout:
        run = range(first, first + count)
        if taken & set(run):
            continue
        taken |= set(run)
        pieces.append(Piece(first * PAGE, (first + count) * PAGE, offset * PAGE))
        model.update({page: offset + at for at, page in enumerate(run)})
        offset += count
    return model, pieces


def as_model(ranges):
    return {
        page: (piece.offset // PAGE) + page - piece.start // PAGE
        for piece in ranges
        for page in range(piece.start // PAGE, piece.end // PAGE)
    }


@settings(derandomize=True, max_examples=200)
@given(layouts, actions)
def test_cuts_and_moves_do_what_they_do_to_single_pages(layout, steps):
    model, pieces = build(layout)
    ranges = PageRanges(pieces)
    for kind, first, count, target in steps:
        run = range(first, first + count)
        if kind == "cut":
            ranges.cut(first * PAGE, (first + count) * PAGE)
            model = {page: at for page, at in model.items() if page not in run}
        elif abs(target - first) >= count:  # mremap refuses overlapping places
            ranges.move(first * PAGE, target * PAGE, count * PAGE)
            moved = {page - first + target: model[page] for page in run if page in model}
            gone = set(run) | set(range(target, target + count))
            model = {page: at for page, at in model.items() if page not in gone} | moved
        assert as_model(ranges) == model
    assert ranges.size_bytes == len(model) * PAGE
    for page in range(TOP):
        found = ranges.find(page * PAGE)
        assert (found.offset // PAGE if found else None) == model.get(page)


@settings(derandomize=True, max_examples=100)
@given(layouts, pages, lengths)
def test_what_lies_within_a_range_is_what_a_cut_would_take(layout, first, count):
    _, pieces = build(layout)
    ranges = PageRanges(pieces)
    within = ranges.within(first * PAGE, (first + count) * PAGE)
    assert within == ranges.cut(first * PAGE, (first + count) * PAGE)


@settings(derandomize=True, max_examples=100)
@given(layouts, st.integers(0, 40), lengths)
def test_places_of_a_file_range_are_where_its_pages_were(layout, first, count):
    model, pieces = build(layout)
    wanted = {page: at for page, at in model.items() if first <= at < first + count}
    places = OffsetIndex(pieces).places(first * PAGE, count * PAGE)
    assert as_model(places) == wanted


def test_next_from_starts_over_at_the_lowest_piece():
    ranges = PageRanges([Piece(0, PAGE, 0), Piece(8 * PAGE, 10 * PAGE, PAGE)])
    assert ranges.next_from(4 * PAGE) == Piece(8 * PAGE, 10 * PAGE, PAGE)
    assert ranges.next_from(9 * PAGE) == Piece(9 * PAGE, 10 * PAGE, 2 * PAGE)
    assert ranges.next_from(12 * PAGE) == Piece(0, PAGE, 0)
    assert PageRanges().next_from(0) is None
