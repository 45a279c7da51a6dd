"""A heatmap as a Grayscale Softcopy Presentation State: outlines that a viewer lays over a view.

The radiograph stays as it is in the archive; its window and inversion are those that the network
saw it by (`imaging.dicom`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mura_tune import __version__
from mura_tune.archive.headers import NOT_A_DEVICE, SourceStudy, new_uid
from mura_tune.archive.structured_report import SERIES, Model
from mura_tune.imaging.radiograph import LookupTable, is_inverted, read_table
from mura_tune.reading.explain import ViewExplanation

if TYPE_CHECKING:
    from pydicom import Dataset

_DESCRIPTION = "mura-tune outlines, for research only"
_LEVELS = (0.5, 0.75)  # shares of the study's strongest evidence that are outlined
_LAYER = "HEATMAP"


def build_presentation(
    study: SourceStudy, number: int, view: ViewExplanation, model: Model, root: str
) -> Dataset:
    """The presentation state of the view of this number, from 0.

    Args:
        root: names the answer; the object's UIDs follow from it.
    """
    from highdicom import pr
    from highdicom.content import PresentationLUTTransformation

    source = study.views[number]
    reference = source.reference()
    layer = pr.GraphicLayer(_LAYER, 1, description="What speaks for abnormal")
    outlines = [
        pr.GraphicObject("POLYLINE", points_n2, "PIXEL")
        for points_n2 in trace_outlines(view.cam, view.pixels.shape)
    ]
    text = pr.TextObject(
        f"{model.name} {__version__}: P(abnormal) of this view {view.probability:.3f}\r\n"
        f"Outlined: {_LEVELS[0]:.0%} and {_LEVELS[1]:.0%} of the study's strongest evidence\r\n"
        f"{NOT_A_DEVICE}",
        "DISPLAY",
        bounding_box=(0.01, 0.9, 0.99, 0.99),
        text_justification="LEFT",
    )
    made: Dataset = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[reference],
        series_instance_uid=new_uid("series PR", root),
        series_number=SERIES + 2,
        sop_instance_uid=new_uid("PR", str(number), root),
        instance_number=number + 1,
        **model.equipment(),
        content_label=_LAYER,
        content_description=_DESCRIPTION,
        series_description=_DESCRIPTION,
        graphic_layers=[layer],
        graphic_annotations=[
            pr.GraphicAnnotation([reference], layer, graphic_objects=outlines, text_objects=[text])
        ],
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if is_inverted(source.header) else "IDENTITY"
        ),
    )
    made.Laterality = source.laterality
    _copy_grey_levels(source.header, made)
    return made


def trace_outlines(
    cam_ss: NDArray[np.float32], shape: tuple[int, ...]
) -> list[NDArray[np.float64]]:
    """The closed outlines (N, 2) of a map's levels, as column and row of an image of this shape.

    The corner of the image is 0, 0 (DICOM PS3.3, C.10.5). Around the map there is no evidence, so
    that an outline that meets the edge follows it.
    """
    from contourpy import contour_generator

    height, width = shape[0], shape[1]
    rows, columns = cam_ss.shape
    around = contour_generator(z=np.pad(cam_ss.astype(np.float64), 1))
    ends, step = np.array([width, height]), np.array([width / columns, height / rows])
    lines = [line for level in _LEVELS for line in around.lines(level)]
    # A place i of the padded map is the middle of the place i - 1 of the map itself.
    return [np.clip((np.asarray(line) - 0.5) * step, 0, ends) for line in lines if len(line) > 2]


def _copy_grey_levels(header: Dataset, made: Dataset) -> None:
    """Take over the lookup tables or windows by which `imaging.dicom` shows the view."""
    from pydicom import Dataset

    if header.get("ModalityLUTSequence"):
        source = header.ModalityLUTSequence[0]
        table = read_table(source, header)
        item = _item(table.first, table.entries, int(source.LUTDescriptor[2]))
        item.ModalityLUTType = source.get("ModalityLUTType") or "US"
        made.ModalityLUTSequence = [item]
    elif "RescaleSlope" in header or "RescaleIntercept" in header:  # one alone is met, too
        made.RescaleSlope = header.get("RescaleSlope", 1)
        made.RescaleIntercept = header.get("RescaleIntercept") or 0
        made.RescaleType = header.get("RescaleType") or "US"
    display: Any = Dataset()
    if header.get("VOILUTSequence"):
        display.VOILUTSequence = [_widen(read_table(header.VOILUTSequence[0], header))]
    elif header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        display.WindowCenter = _first(header.WindowCenter)
        display.WindowWidth = _first(header.WindowWidth)
        if header.get("VOILUTFunction"):
            display.VOILUTFunction = header.VOILUTFunction
    if len(display):
        made.SoftcopyVOILUTSequence = [display]


def _widen(table: LookupTable) -> Dataset:
    """A lookup table of the display with 16 bits: a presentation state has 8 or 16 (C.11.8)."""
    share = (2**16 - 1) / (2**table.bits - 1)
    return _item(table.first, np.round(table.entries * share), 16)


def _item(first: int, entries: NDArray[Any], bits: int) -> Dataset:
    """An item of a sequence of lookup tables; 65,536 entries are written as 0."""
    from pydicom import Dataset

    item, count = Dataset(), len(entries) % 2**16
    if first < 0:  # the three words are signed then
        item.add_new("LUTDescriptor", "SS", [(count + 2**15) % 2**16 - 2**15, first, bits])
    else:
        item.add_new("LUTDescriptor", "US", [count, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return item


def _first(value: Any) -> Any:
    from pydicom.multival import MultiValue

    return value[0] if isinstance(value, MultiValue) else value
