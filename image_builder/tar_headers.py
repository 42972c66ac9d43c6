"""The 512-byte headers of tar archives and the records of PAX headers: bytes to values, no I/O.

Understood: old tar, ustar, GNU (base-256 numbers) and PAX (POSIX.1-2001, pax(1)). Everything is
strict: a number, checksum or record that can't be read raises ValueError with the field's name,
because a guess would be a wrong file. tar(5) has the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)

_NANO = 10**9


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of one header block. ``size`` counts the bytes that follow in the archive."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    kind: bytes
    link: bytes
    device: tuple[int, int]
    is_gnu: bool


def parse_header(block: bytes) -> Header:
    """Read one header block. Raises ValueError."""
    _check_sum(block)
    magic = block[257:265]
    is_ustar = magic[:5] == b"ustar"
    is_gnu = magic == b"ustar  \0"
    name = _text(block[0:100])
    if is_ustar and not is_gnu and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    kind = block[156:157]
    has_device = is_ustar and kind in (b"3", b"4")
    return Header(
        name=name,
        mode=number(block[100:108], "mode"),
        uid=number(block[108:116], "uid"),
        gid=number(block[116:124], "gid"),
        size=_size(block[124:136]),
        mtime=number(block[136:148], "mtime"),
        kind=kind,
        link=_text(block[157:257]),
        device=(
            number(block[329:337], "device major") if has_device else 0,
            number(block[337:345], "device minor") if has_device else 0,
        ),
        is_gnu=is_gnu,
    )


def number(field: bytes, name: str) -> int:
    """Return an octal or base-256 number. Raises ValueError."""
    if field[0] & 0x80:  # GNU and star: the rest is a big-endian two's complement number
        value = int.from_bytes(field, "big", signed=False) & ~(0x80 << 8 * (len(field) - 1))
        if field[0] == 0xFF:
            value = int.from_bytes(field, "big", signed=True)
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if any(c not in b"01234567" for c in digits):
        raise ValueError(f"{name} is not a number: {field[:12]!r}")
    return int(digits, 8)


def _size(field: bytes) -> int:
    size = number(field, "size")
    if size < 0:
        raise ValueError("size is negative")
    return size


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _check_sum(block: bytes) -> None:
    stored = number(block[148:156], "checksum")
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    # Some historic programs summed signed characters.
    signed = unsigned - 256 * sum(1 for c in rest if c > 127)
    if stored not in (unsigned, signed):
        raise ValueError("header checksum does not match")


def parse_pax(content: bytes) -> list[tuple[str, bytes]]:
    """Return the records of a PAX header in order, keys as text. Raises ValueError.

    Keys may repeat: sparse files of GNU tar's first PAX format depend on it.
    """
    records = []
    position = 0
    while position < len(content):
        space = content.find(b" ", position, position + 20)
        digits = content[position:space] if space >= 0 else b""
        if not digits.isdigit():
            raise ValueError("PAX record without a length")
        end = position + int(digits)
        record = content[space + 1 : end]
        if end > len(content) or end <= space or not record.endswith(b"\n"):
            raise ValueError("PAX record with a wrong length")
        key, equals, value = record[:-1].partition(b"=")
        if not equals or not key:
            raise ValueError("PAX record without a key")
        records.append((key.decode("utf-8", "surrogateescape"), value))
        position = end
    return records


def pax_number(value: bytes, name: str) -> int:
    """Return a decimal number, not negative. Raises ValueError."""
    if not value.isdigit() or len(value) > 20:
        raise ValueError(f"PAX {name} is not a number: {value[:24]!r}")
    return int(value)


def pax_time_ns(value: bytes, name: str) -> int:
    """Return a decimal time in nanoseconds; digits beyond nanoseconds are cut, towards the past.

    Raises ValueError.
    """
    negative = value.startswith(b"-")
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(value) > 60:
        raise ValueError(f"PAX {name} is not a time: {value[:24]!r}")
    total = int(whole) * _NANO + int(fraction[:9].ljust(9, b"0"))
    if not negative:
        return total
    return -total - (1 if fraction[9:].strip(b"0") else 0)
