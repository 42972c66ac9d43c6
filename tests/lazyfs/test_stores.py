"""A store is opened once, whatever it is called, and keeps no process from ending."""

import os
import subprocess
import sys
from pathlib import Path

from hotstart.store.stack import open_store
from lazyfs.stores import StorePool
from tests.lazyfs.node import wait_until
from tests.store.answering_server import Answer, answering

WARM = """
import sys, threading
from lazyfs.stores import StorePool
threading.Thread(target=StorePool().warm, args=(sys.argv[1], 2), daemon=True).start()
sys.stdin.read()
"""


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


def test_a_store_that_is_away_keeps_no_process_from_ending():
    with answering(Answer(200, stalls=True)) as (endpoint, requests):
        process = subprocess.Popen(
            [sys.executable, "-c", WARM, f"s3://bucket?endpoint={endpoint}"],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        )
        try:
            wait_until(lambda: len(requests) == 2)
            process.communicate(timeout=15)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0


def test_connections_are_counted_that_were_answered(tmp_path):
    url = f"file://{tmp_path}/store"
    open_store(url)
    assert StorePool().warm(url, 3) == 3
