"""Groups by size."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hotstart.core.batching import in_batches


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_every_item_comes_once_in_order_in_groups_below_the_limit(sizes, limit):
    batches = list(in_batches(sizes, limit, int))
    assert [size for batch in batches for size in batch] == sizes
    assert all(batch and (sum(batch) <= limit or len(batch) == 1) for batch in batches)
    for batch, following in pairwise(batches):
        assert sum(batch) + following[0] > limit
