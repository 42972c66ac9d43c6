"""How much one build may read, so that a hostile archive ends in a sentence, not in a full disk.

The defaults are far above real images; EROFS itself allows 16 TiB of data in one device.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one build; sizes in bytes."""

    entries: int = 8_000_000
    """Entries of all layers, or of the directory tree."""
    devices: int = 4096
    """Device nodes of all layers; a whole /dev has some hundreds."""
    layer_size: int = 512 * GIB
    """One layer, uncompressed."""
    file_size: int = 16 * 1024 * GIB
    """Declared size of one file, holes included."""
    header_size: int = 4 << 20
    """One extended tar header (names, extended attributes)."""
    path_length: int = 4095
    """Bytes of one path in an archive: what Linux can open (PATH_MAX)."""
    document_size: int = 16 << 20
    """One JSON document of an OCI image."""
    spool_reserve: int = 1 * GIB
    """Space that decompressing a layer leaves free on its file system."""
