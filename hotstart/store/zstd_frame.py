"""One zstd frame around known bytes: the only compression in Hotstart's formats.

Frames carry their content size and no checksum (digests verify them). Output depends on input and
library version alone. A zstd context serves one thread, so each thread keeps its own pair.
"""

from __future__ import annotations

import threading

import zstandard

from hotstart.store.format_errors import FormatInvalid

LEVEL = 2
"""Level 3 saves 1.7 % of an image's bytes and costs a sixth more time, level 9 saves 7 % and costs
five times the time."""


class FrameInvalid(FormatInvalid):
    """Bytes are not one zstd frame of the expected length."""

    format_name = "zstd frame"


class _Contexts(threading.local):
    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters(
            compression_level=LEVEL,
            write_checksum=False,
            write_content_size=True,
            write_dict_id=False,
        )
        self.compressor = zstandard.ZstdCompressor(compression_params=parameters)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(content: bytes | bytearray | memoryview) -> bytes:
    """Return one frame around ``content``. Releases the GIL while it works."""
    return _contexts.compressor.compress(content)


def decompress(stored: bytes | bytearray | memoryview, length: int) -> bytes:
    """Return the ``length`` bytes in the frame ``stored``. Raises FrameInvalid.

    Memory is taken only for a frame that says it holds exactly ``length`` bytes.
    """
    try:
        declared = zstandard.frame_content_size(stored)
        if declared != length:
            raise FrameInvalid(f"holds {declared} bytes, expected {length}")
        if length == 0:
            return _empty(stored)
        content = _contexts.decompressor.decompress(stored, allow_extra_data=False)
    except (zstandard.ZstdError, ValueError) as err:
        raise FrameInvalid(str(err)) from err
    if len(content) != length:
        raise FrameInvalid(f"holds {len(content)} bytes, expected {length}")
    return content


def _empty(stored: bytes | bytearray | memoryview) -> bytes:
    # The library answers b"" for any frame that declares no content; only ours counts.
    if bytes(stored) != compress(b""):
        raise FrameInvalid("an empty frame with something in it")
    return b""
