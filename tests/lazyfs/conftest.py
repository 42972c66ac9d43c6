"""The device that most tests of the fill engine read from."""

import pytest

from tests.lazyfs.small_device import SmallDevice


@pytest.fixture
def small(tmp_path):
    return SmallDevice(tmp_path)
