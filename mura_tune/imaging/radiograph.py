"""Grey levels of a radiograph, as its own DICOM header says that its stored values are to be seen.

Stored values pass the modality LUT or rescale, the first VOI LUT or else the first window, and one
inversion where low values are white (DICOM PS3.3, C.11.1, C.11.2 and C.7.6.3.1.2). The 256 levels
span the range that this has, whatever part of it the picture fills. Padding is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.imaging.grey_levels import Pixels, UnclearGreyLevels

if TYPE_CHECKING:
    from pydicom import Dataset

Numbers = NDArray[np.float64]

EXPORT_AGAIN = "export it again"
_LEVELS = 255
CONTRAST = 3  # levels of 255 that the lightest and the darkest pixel differ by, at least
_DEPTHS = range(1, 17)  # bits that a value has
_USUAL_DEPTHS = (8, 10, 12, 14, 16)  # bits of what detectors give


@dataclass(frozen=True, eq=False)
class Radiograph:
    """The stored values of a radiograph, and what its header says that they mean.

    Attributes:
        stored: (H, W).
        low: the lowest value that can be stored, the first of both tables.
        meanings: what each value that can be stored means, after the modality LUT or rescale, (K,).
        shown: the same as shares of the displayed range, as the header has them displayed, (K,).
        inverted: whether low values are white.
        padding: the first and the last stored value that is no part of the picture.
        window: centre and width of the header's window, in meanings; None where it has none, or one
            that is not linear, or a lookup table.
    """

    stored: NDArray[np.integer[Any]]
    low: int
    meanings: Numbers
    shown: Numbers
    inverted: bool
    padding: tuple[int, int] | None
    window: tuple[float, float] | None

    @classmethod
    def of(cls, stored: NDArray[np.integer[Any]], header: Dataset) -> Radiograph:
        """Raises UnclearGreyLevels for a lookup table or a window that DICOM does not know."""
        low, high = _stored_range(header)
        meanings, output = _modality(np.arange(low, high + 1), (low, high), header)
        shown = _shown(meanings, output, header)
        return cls(
            *(stored, low, meanings, shown, is_inverted(header)),
            *(_padding(header), _linear_window(header)),
        )

    def grey(self, window: tuple[float, float] | None = None) -> Pixels:
        """The 256 levels (H, W), padding black; by another linear window where one is given."""
        shown = self.shown if window is None else _linear(self.meanings, *window)
        if self.inverted:
            shown = 1 - shown
        levels = np.floor(shown.clip(0, 1) * _LEVELS + 0.5).astype(np.uint8)
        places = self.stored.astype(np.int32) - self.low if self.low else self.stored
        grey: Pixels = np.take(levels, places, mode="clip")
        if self.padding is not None:
            grey[self._is_padding(*self.padding)] = 0
        return grey

    def extremes(self) -> tuple[float, float]:
        """The ends of what the picture's values, without its padding, can mean."""
        values = self.stored
        if self.padding is not None:
            values = values[~self._is_padding(*self.padding)]
        if not values.size:
            return float(self.meanings.min()), float(self.meanings.max())
        last = len(self.meanings) - 1
        first, last = (min(max(int(v) - self.low, 0), last) for v in (values.min(), values.max()))
        present = self.meanings[first : last + 1]
        return float(present.min()), float(present.max())

    def _is_padding(self, first: int, last: int) -> NDArray[np.bool_]:
        """Which pixels (H, W) are no part of the picture (C.7.5.1.1.2)."""
        return np.asarray((self.stored >= first) & (self.stored <= last))


def is_inverted(header: Dataset) -> bool:
    """Whether low values are white."""
    low_is_white = header.PhotometricInterpretation == "MONOCHROME1"
    return bool(low_is_white or header.get("PresentationLUTShape") == "INVERSE")


def check_contrast(radiograph: Radiograph, grey: Pixels) -> None:
    """Raise UnclearGreyLevels where the header's window hides a picture that has contrast."""
    if np.ptp(grey) < CONTRAST <= np.ptp(radiograph.stored):
        raise UnclearGreyLevels(
            f"its window or lookup table leaves no contrast: {EXPORT_AGAIN} with another window"
        )


def _stored_range(header: Dataset) -> tuple[int, int]:
    """The lowest and highest value that can be stored."""
    bits = int(header.BitsStored)
    if bits not in _DEPTHS:
        raise UnclearGreyLevels(f"values of {bits} bits: {EXPORT_AGAIN}")
    half = 2 ** (bits - 1)
    return (-half, half - 1) if header.PixelRepresentation else (0, 2 * half - 1)


def _modality(
    values: NDArray[np.integer[Any]], stored: tuple[int, int], header: Dataset
) -> tuple[Numbers, tuple[float, float]]:
    """What stored values mean, and the range of it (C.11.1)."""
    if tables := header.get("ModalityLUTSequence"):
        levels, bits = _look_up(values.astype(np.float64), tables[0], header)
        return levels, (0.0, 2.0**bits - 1)
    slope = float(header.get("RescaleSlope", 1) or 0)
    intercept = float(header.get("RescaleIntercept", 0) or 0)
    if not slope or not np.isfinite([slope, intercept]).all():
        raise UnclearGreyLevels(f"its rescale slope makes all values one: {EXPORT_AGAIN}")
    ends = sorted(slope * end + intercept for end in stored)
    return np.asarray(values * slope + intercept, np.float64), (ends[0], ends[1])


def _shown(values: Numbers, output: tuple[float, float], header: Dataset) -> Numbers:
    """Values as shares of the displayed range, black 0 to white 1 (C.11.2)."""
    if tables := header.get("VOILUTSequence"):
        levels, bits = _look_up(values, tables[0], header)
        return levels / (2.0**bits - 1)
    centers, widths = (_numbers(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if not centers or not widths:
        low, high = output
        return (values - low) / (high - low)
    center, width = centers[0], widths[0]
    match str(header.get("VOILUTFunction") or "LINEAR").upper():
        case "LINEAR" if width >= 1:
            return _linear(values, center, width)
        case "LINEAR_EXACT" if width > 0:
            return (values - center) / width + 0.5
        case "SIGMOID" if width > 0:
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    raise UnclearGreyLevels(f"a window of unknown kind or no width: {EXPORT_AGAIN}")


def _linear(values: Numbers, center: float, width: float) -> Numbers:
    """Values by a linear window, as shares of the displayed range (C.11.2.1.2.1)."""
    if width <= 1:  # a threshold
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _linear_window(header: Dataset) -> tuple[float, float] | None:
    """Centre and width of the window that `_shown` applies, where `_linear` does that."""
    centers, widths = (_numbers(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    linear = str(header.get("VOILUTFunction") or "LINEAR").upper() == "LINEAR"
    if header.get("VOILUTSequence") or not linear or not centers or not widths:
        return None
    return centers[0], widths[0]


@dataclass(frozen=True, eq=False)
class LookupTable:
    """A lookup table of a header: the entry of each value from `first` on, of so many bits."""

    first: int
    entries: NDArray[np.integer[Any]]
    bits: int


def read_table(item: Dataset, header: Dataset) -> LookupTable:
    """Read an item of a sequence of lookup tables (DICOM PS3.3, C.11.1.1.1).

    Tables are met that say 16 bits and end with 1,023: the bits are the fewest that hold them all.

    Raises:
        UnclearGreyLevels: a table that is cut off, or of bits that DICOM does not know.
    """
    count, first, bits = (int(word) for word in item.LUTDescriptor)
    count = count or 2**16
    if first >= 2**15 and header.PixelRepresentation and "RescaleSlope" not in header:
        first -= 2**16  # a signed number that was read as one without a sign
    table = _table(item.LUTData, count, header)
    if bits not in (8, *range(10, 17)) or len(table) < count:
        raise UnclearGreyLevels(f"a lookup table that is cut off, or of other bits: {EXPORT_AGAIN}")
    most = int(table[:count].max())
    bits = next((depth for depth in _USUAL_DEPTHS if most < 2**depth and depth <= bits), bits)
    return LookupTable(first, table[:count], bits)


def _look_up(values: Numbers, item: Dataset, header: Dataset) -> tuple[Numbers, int]:
    """The entries of a lookup table for values, and the bits that an entry has."""
    table = read_table(item, header)
    places = np.clip(np.floor(values) - table.first, 0, len(table.entries) - 1).astype(np.int64)
    return table.entries[places].astype(np.float64), table.bits


def _table(data: Any, count: int, header: Dataset) -> NDArray[np.integer[Any]]:
    """The entries of a lookup table; pydicom leaves words of bytes as they are."""
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(data) in (count, count + 1) and count > 1:
        return np.frombuffer(data, np.uint8)
    order = "<" if header.original_encoding[1] else ">"
    return np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")


def _numbers(value: Any) -> list[float]:
    """One number or several of a header, as a list; empty where there is none."""
    if value is None or value == "":
        return []
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return [float(one) for one in (value if several else [value])]


def _padding(header: Dataset) -> tuple[int, int] | None:
    """The first and the last stored value that is no part of the picture (C.7.5.1.1.2)."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    first, last = sorted((int(value), int(value if limit is None else limit)))
    return first, last
