"""Faults of JPEG files: whether a file holds all of its picture.

libjpeg decodes whatever it gets: it fills missing blocks with grey, passes over surplus data, and
warns; Pillow keeps the warnings to itself. So two changed files are decoded too, and tell:

- *stuffed*: bytes put before each marker that ends coded data. Where the data was complete they
  are passed over; where it was not they become part of the picture, which is another one then.
- *taller*: the header asks for more rows. Where the data was used up these are mid-grey;
  where some was left over it appears there.

Coded data out of step, by a hole for example, ends too early or too late. What falls into step
again is noticed no more than libjpeg notices it: damage in a progressive file's refining scans, and
a surplus before a restart marker. Marker codes: ITU-T T.81, table B.1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops

START = b"\xff\xd8\xff"
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others are tables
_RESTARTS = range(0xD0, 0xD8)
_END, _SCAN, _INTERVAL = 0xD9, 0xDA, 0xDD
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # 0xff 0x00 is a coded 0xff
# Bits by chance, three of four zero: in Huffman codes these are frequent symbols, which change a
# picture. Ones are rare symbols, among them "nothing for thousands of blocks".
_RANDOM = [number * 2654435761 >> 8 & 0xFF for number in range(65)]
_STUFFING = bytes(a & b for a, b in itertools.pairwise(_RANDOM))
_BLOCK = 8  # pixels a side
_LONGEST_RUN = 0x7FFF  # empty blocks
_FILL = {127, 128}  # 127: where the file is CMYK, or has its colours inverted
_BLEED = 2  # pixels that the colour of a block reaches into the next one

Decoder = Callable[[bytes], Image.Image]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The header of the picture; `at` is where its height stands."""

    kind: int
    at: int
    width: int
    height: int
    sampling: dict[int, tuple[int, int]]  # of each component by number: across and down

    @property
    def unit(self) -> tuple[int, int]:
        """Width and height in pixels of what an interleaved scan codes at a time."""
        across, down = zip(*self.sampling.values(), strict=True)
        return _BLOCK * max(across), _BLOCK * max(down)

    def units(self, components: tuple[int, ...]) -> int:
        """How many units a scan of these components codes."""
        across, down = self.unit
        if len(components) == 1:  # not interleaved: blocks of that component alone
            own = self.sampling[components[0]]
            across, down = across // own[0], down // own[1]
        return -(-self.width // across) * -(-self.height // down)


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass of coded data over the picture.

    Attributes:
        band: the first and last coefficient of a block that it codes.
        shift: how many low bits of them it leaves to later scans.
        interval: how many units lie between two restart markers; 0 for no such markers.
        restarts: their codes.
        ends: where the markers stand that end its data, restart markers and the last one.
    """

    components: tuple[int, ...]
    band: tuple[int, int]
    shift: int
    interval: int
    restarts: tuple[int, ...]
    ends: tuple[int, ...]


def find_fault(data: bytes, image: Image.Image, decode: Decoder) -> str:
    """Return what is wrong with a file that gave `image`, for a message; "" if it is whole.

    `decode` gives the picture of the bytes of a JPEG file. Whatever it raises passes through.
    """
    try:
        frame, scans = _parsed(data)
    except (IndexError, ValueError):
        return "its headers are cut short"
    if frame is None or not scans:
        return "no picture in it"
    if frame.kind not in (*_SEQUENTIAL, _PROGRESSIVE):
        return "lossless or arithmetic coding is not supported"
    if not all(_in_step(frame, scan) for scan in scans):
        return "restart markers are missing"
    if frame.kind == _PROGRESSIVE and not _refined(frame, scans):
        return "its last scans are missing"
    if ImageChops.difference(image, decode(_stuffed(data, scans))).getbbox():
        return "part of its picture is missing"
    if not any(scan.interval for scan in scans) and _surplus(data, frame, decode):
        return "its picture and its size do not fit"
    return ""


def _parsed(data: bytes) -> tuple[_Frame | None, list[_Scan]]:
    """The frame, None if there is none, and the scans up to the end of the picture."""
    frame, scans, interval, at = None, [], 0, 0
    while (marker := _MARKER.search(data, at)) and marker[1][0] != _END:
        code, start = marker[1][0], marker.end()
        if code in (0x01, 0xD8, *_RESTARTS):  # they have no content
            at = start
            continue
        at = start + int.from_bytes(data[start : start + 2], "big")
        content = data[start + 2 : at]
        if code in _FRAMES:
            frame = _frame(code, start + 2, content)
        elif code == _INTERVAL:
            interval = int.from_bytes(content[:2], "big")
        elif code == _SCAN:
            restarts, ends = _coded(data, at)
            at = ends[-1]
            scans.append(_scan(content, interval, restarts, ends))
    return frame, scans


def _frame(code: int, start: int, content: bytes) -> _Frame:
    height, width = (int.from_bytes(content[at : at + 2], "big") for at in (1, 3))
    components = [content[6 + 3 * i : 9 + 3 * i] for i in range(content[5])]
    sampling = {c[0]: (c[1] >> 4, c[1] & 15) for c in components}
    return _Frame(code, start + 1, width, height, sampling)


def _scan(content: bytes, interval: int, restarts: list[int], ends: list[int]) -> _Scan:
    count = content[0]
    first, last, approximation = content[1 + 2 * count : 4 + 2 * count]
    return _Scan(
        components=tuple(content[1 : 1 + 2 * count : 2]),
        band=(first, last),
        shift=approximation & 15,
        interval=interval,
        restarts=tuple(restarts),
        ends=tuple(ends),
    )


def _coded(data: bytes, start: int) -> tuple[list[int], list[int]]:
    """The restart markers in the coded data from `start`, and where they and its end stand."""
    restarts: list[int] = []
    ends: list[int] = []
    for marker in _MARKER.finditer(data, start):
        ends.append(marker.start())
        if marker[1][0] not in _RESTARTS:
            return restarts, ends
        restarts.append(marker[1][0])
    return restarts, [*ends, len(data)]


def _in_step(frame: _Frame, scan: _Scan) -> bool:
    """Say whether all restart markers are there, in their order; one more at the end is allowed."""
    needed = -(-frame.units(scan.components) // scan.interval) - 1 if scan.interval else 0
    turns = [_RESTARTS[number % len(_RESTARTS)] for number in range(len(scan.restarts))]
    return list(scan.restarts) == turns and needed <= len(turns) <= needed + 1


def _refined(frame: _Frame, scans: list[_Scan]) -> bool:
    """Say whether the scans hold every bit of the first component, which is the luma."""
    luma, left = next(iter(frame.sampling)), [1] * _BLOCK**2
    for scan in scans:
        if luma in scan.components:
            first, last = scan.band
            left[first : last + 1] = [scan.shift] * (last + 1 - first)
    return not any(left)


def _stuffed(data: bytes, scans: list[_Scan]) -> bytes:
    cuts = [0, *(end for scan in scans for end in scan.ends), len(data)]
    return _STUFFING.join(data[a:b] for a, b in itertools.pairwise(cuts))


def _surplus(data: bytes, frame: _Frame, decode: Decoder) -> bool:
    """Say whether the rows below the picture are anything but what libjpeg puts for no data.

    Of their first units, those that the bits may reach that fill up a scan's last byte are passed
    over: one such bit is a block in a progressive file. In one, surplus data may also begin with a
    long run of empty blocks, as long as the picture has any; so there are rows for it.
    """
    across, down = frame.unit
    in_one_row, in_one_column = -(-frame.width // across), -(-frame.height // down)
    passed, rows = 1, 1
    if frame.kind == _PROGRESSIVE:
        passed, rows = 8, 1 + min(2 * in_one_column, _LONGEST_RUN // in_one_row)
    row = down * in_one_column
    left = passed * across + _BLEED
    if left >= frame.width:  # too narrow: look at the rows below those units
        row, left = row + down * passed, 0
    height = row + down * rows
    if height > 0xFFFF:
        return False
    taller = decode(data[: frame.at] + height.to_bytes(2, "big") + data[frame.at + 2 :])
    below = taller.crop((left, row + _BLEED, frame.width, height))
    return any(set(band.getextrema()) - _FILL for band in below.split())
