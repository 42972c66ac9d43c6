"""The fake is held to the contract of the real stores."""

import pytest

from tests.contracts.blob_store import BlobStoreContract
from tests.contracts.reference_store import ReferenceStoreContract
from tests.fakes.memory_store import MemoryBlobs, MemoryReferences


class TestMemoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()

    def damage(self, blobs, digest, content):
        blobs.contents[digest] = content


class TestMemoryReferences(ReferenceStoreContract):
    @pytest.fixture
    def references(self):
        return MemoryReferences()
