"""A store is opened once, whatever it is called."""

from hotstart.store.stack import open_store
from lazyfs.stores import StorePool


def test_a_store_that_was_opened_by_one_name_is_not_opened_again_by_its_canonical_url(tmp_path):
    opened = []

    def opener(url):
        opened.append(url)
        return open_store(url)

    pool = StorePool(opener)
    first = pool.get(str(tmp_path / "store"))
    assert pool.get(first.url) is first
    assert pool.get(str(tmp_path / "store")) is first
    assert opened == [str(tmp_path / "store")]
