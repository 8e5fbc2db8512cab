"""Whom a certificate is for, as RFC 2253 writes it and Java with it: `CN=client,O=Test`. Pure.

Rules of this module: a certificate that comes here has been checked by whoever made the connection; of its DER as much
is read as is needed. What RFC 2253 has no short name for is written as number and bytes, as Java does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from everlatch.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_subject", "subject"]

_VERSION: Final = 0xA0
_STRINGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
"""What text is written in, by the tag of its type."""
_NAMES: Final = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}
_SPECIAL: Final = re.compile(r'([,=+<>#;"\\])')
_BEFORE_SUBJECT: Final = 4
"""Serial number, algorithm, issuer, validity."""
_PART: Final = re.compile(r'\s*([A-Za-z][A-Za-z0-9-]*|\d+(\.\d+)+)\s*=(\\.|"(\\.|[^"\\])*"|[^,;+"\\])*')


def subject(certificate: bytes) -> str:
    """Of a certificate in DER. Raises `ProtocolError` for what is none."""
    try:
        return ",".join(reversed([_attributes(names) for names in _subject_of(certificate)]))
    except (IndexError, ValueError) as error:
        raise ProtocolError("the subject of a certificate can't be read") from error


def is_subject(text: str) -> bool:
    """Whether it can be one, so that an ACL may name it."""
    pos = 0
    while pos < len(text):
        part = _PART.match(text, pos)
        if part is None or part.end() == len(text) - 1:
            return False
        pos = part.end() + 1
    return True


def _subject_of(certificate: bytes) -> list[bytes]:
    """Its parts."""
    (_, whole), *_ = _values(certificate)
    (_, signed), *_ = _values(whole)
    fields = list(_values(signed))
    version = int(fields[0][0] == _VERSION)  # the first one may be left out
    return [names for _, names in _values(fields[version + _BEFORE_SUBJECT][1])]


def _attributes(names: bytes) -> str:
    return "+".join(_attribute(name) for _, name in _values(names))


def _attribute(name: bytes) -> str:
    (_, oid), (tag, value) = _values(name)
    number = _number(oid)
    if number not in _NAMES or tag not in _STRINGS:
        return f"{number}=#{name[len(oid) + 2 :].hex()}"
    return f"{_NAMES[number]}={_escaped(value.decode(_STRINGS[tag]))}"


def _escaped(text: str) -> str:
    inner = text.strip(" \r")
    start = text.index(inner)
    before, after = text[:start], text[start + len(inner) :]
    inner = _SPECIAL.sub(r"\\\1", inner).replace("\0", r"\00")
    return "".join(f"\\{space}" for space in before) + inner + "".join(f"\\{space}" for space in after)


def _number(oid: bytes) -> str:
    numbers: list[int] = []
    number = 0
    for byte in oid:
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of what stands side by side. Raises `IndexError` for what is cut off."""
    pos = 0
    while pos < len(data):
        tag, size = data[pos], data[pos + 1]
        pos += 2
        if size >= 0x80:
            digits = size - 0x80
            size = int.from_bytes(data[pos : pos + digits], "big")
            pos += digits
        if pos + size > len(data):
            raise IndexError("a value is cut off")
        yield tag, data[pos : pos + size]
        pos += size
