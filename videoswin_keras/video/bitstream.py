"""Reads from packets whether each is one frame: what an index of packets has to know of H.264, MPEG-4 and VP8."""

import re
from typing import Any

_VOP = b"\x00\x00\x01\xb6"  # begins a picture of MPEG-4
_PACKED = re.compile(rb"DivX\d+(?:b|Build)\d+p")  # by which writers of packed streams say so
_LEAST_VOP = 20  # bytes; a shorter one may be a picture that is not coded, which is no frame
# Profiles of H.264 whose header has the fields on colour formats (ITU-T H.264, 7.3.2.1.1).
_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}


def is_hidden(packet: Any, codec: str) -> bool:
    """Whether a packet is one of VP8 that is only a reference for others: bit 4 of its first byte says "show"."""
    return codec == "vp8" and not memoryview(packet)[0] & 0x10


def is_one_frame(packet: Any, codec: str) -> bool:
    """Whether a packet of MPEG-4 certainly holds one frame; of other codecs True."""
    if codec != "mpeg4":
        return True
    data = bytes(packet)
    return len(data) >= _LEAST_VOP and data.count(_VOP) == 1


def is_packed(packet: Any) -> bool:
    """Whether a packet of MPEG-4 holds two pictures, the second shown before the first, or says that others do."""
    data = bytes(packet)
    return data.count(_VOP) > 1 or _PACKED.search(data) is not None


def may_have_fields(data: bytes) -> bool:
    """Whether H.264 allows a picture to be two packets, one for each field.

    Args:
        data: A packet, or the codec's header, in either form (start codes, or lengths as in MP4).

    Returns:
        True if a sequence header (SPS) in it says so; False if none does.

    Example, with the header of a progressive video of 64 × 48 pixels:

    >>> may_have_fields(bytes.fromhex("0000016764000aacd9447a1000000300100000030140f12259600000"))
    False

    Source: ITU-T H.264, 7.3.2.1.1: `frame_mbs_only_flag`.
    """
    return any(_allows_fields(part) for part in _sequence_headers(data))


def _sequence_headers(data: bytes) -> list[bytes]:
    """The SPS units after start codes; in the header of MP4 (avcC) those after their lengths."""
    if data[:1] == b"\x01":
        found, place = [], 6
        for _ in range(data[5] & 31 if len(data) > 5 else 0):
            length = int.from_bytes(data[place : place + 2], "big")
            found.append(data[place + 2 : place + 2 + length])
            place += 2 + length
        return found
    return [part for part in data.split(b"\x00\x00\x01")[1:] if part and part[0] & 31 == 7]


class _Bits:
    """Bits of an H.264 unit, without the bytes that keep start codes out of it."""

    def __init__(self, unit: bytes):
        data = unit.replace(b"\x00\x00\x03", b"\x00\x00")
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def read(self, count: int) -> int:
        bits = self._bits[self._place : self._place + count]
        self._place += count
        return int(bits or "0", 2)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb number (9.1)."""
        zeros = 0
        while self._bits[self._place : self._place + 1] == "0":
            zeros += 1
            self._place += 1
        return self.read(zeros + 1) - 1

    def signed_golomb(self) -> int:
        number = self.golomb()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _allows_fields(unit: bytes) -> bool:
    bits = _Bits(unit[1:64])
    profile = bits.read(8)
    bits.read(16)  # constraints and level
    bits.golomb()  # number of the header
    if profile in _HIGH_PROFILES:
        colours = bits.golomb()
        if colours == 3:
            bits.read(1)
        bits.golomb()  # bit depths
        bits.golomb()
        bits.read(1)
        if bits.read(1):
            for size in [16] * 6 + [64] * (6 if colours == 3 else 2):
                if bits.read(1):
                    _skip_scaling(bits, size)
    bits.golomb()  # bits of frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        for _ in range(2):
            bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.read(1)
    bits.golomb()  # width and height
    bits.golomb()
    return not bits.read(1)


def _skip_scaling(bits: _Bits, size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last
