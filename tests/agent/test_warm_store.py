"""A store is made ready ahead of the first request, and nothing depends on it."""

from agent import warm_store
from hotstart.core.errors import Unavailable
from hotstart.store.stack import open_store
from lazyfs.stores import StorePool


class Worker:
    def __init__(self, error=None):
        self.warmed, self._error = [], error

    def warm(self, url):
        if self._error is not None:
            raise self._error
        self.warmed.append(url)
        return 16


def test_agent_and_worker_open_the_store_before_it_is_asked_for(tmp_path):
    url = f"file://{tmp_path}/store"
    open_store(url)
    opened = []
    pool = StorePool(lambda asked: (opened.append(asked), open_store(asked, create=False))[1])
    worker = Worker()
    warm_store.begin(url, pool, worker).join(20)
    assert (opened, worker.warmed) == ([url], [url])
    pool.get(url)
    assert opened == [url]


def test_a_store_that_does_not_answer_is_only_logged(tmp_path):
    pool = StorePool(open_store)
    worker = Worker(error=Unavailable("no worker"))
    warm_store.begin(f"file://{tmp_path}/store", pool, worker).join(20)
    warm_store.begin("s3://", pool, worker).join(20)
    assert worker.warmed == []
