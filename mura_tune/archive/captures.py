"""A heatmap over its radiograph as a DICOM Secondary Capture, with a caption below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mura_tune import __version__
from mura_tune.archive.headers import MANUFACTURER, NOT_A_DEVICE, SourceStudy, new_uid
from mura_tune.archive.structured_report import SERIES, Model
from mura_tune.reading.explain import ViewExplanation
from mura_tune.report.heatmap import overlay

if TYPE_CHECKING:
    from pydicom import Dataset

_DESCRIPTION = "mura-tune heatmaps, for research only"
LEAST, MOST = 512, 1024  # pixels of the longest side: a map of few places gains nothing from more
_FONT, _LINE = 13, 18  # heights of letters and of lines, in pixels
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage
# What holds of the capture as it does of the view.
_POSTURE = ("PatientOrientation", "BurnedInAnnotation")


def build_capture(
    study: SourceStudy, number: int, view: ViewExplanation, model: Model, root: str
) -> Dataset:
    """The Secondary Capture of the view of this number, from 0, coloured by its map.

    Args:
        root: names the answer; the object's UIDs follow from it.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    source = study.views[number]
    pixels_hwc = draw_capture(view, model)
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = _CAPTURE, new_uid("SC", str(number), root)
    made.SeriesInstanceUID, made.SeriesNumber = new_uid("series SC", root), SERIES + 1
    made.SeriesDescription, made.Modality, made.InstanceNumber = _DESCRIPTION, "OT", number + 1
    made.ConversionType = "WSD"  # workstation
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, model.name
    made.SoftwareVersions, made.DeviceSerialNumber = __version__, model.digest
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.PatientOrientation, made.Laterality = "", source.laterality
    made.DerivationDescription = "Grad-CAM of the release over the radiograph, 8 bits a colour"
    made.ContentDate = made.ContentTime = ""
    for name in _POSTURE:
        if name in source.header:
            made[name] = source.header[name]
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.header.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.header.SOPInstanceUID
    made.SourceImageSequence = [reference]
    made.SamplesPerPixel, made.PhotometricInterpretation = 3, "RGB"
    made.PlanarConfiguration, made.PixelRepresentation = 0, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.Rows, made.Columns = pixels_hwc.shape[:2]
    pixels = pixels_hwc.tobytes()
    made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OB"
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def draw_capture(view: ViewExplanation, model: Model) -> NDArray[np.uint8]:
    """The colours (H, W, 3) of a capture: the view under its map, and the caption."""
    height, width = view.pixels.shape
    scale = min(max(max(height, width), LEAST), MOST) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = Image.fromarray(view.pixels).resize(size, Image.Resampling.BILINEAR)
    caption = (
        f"{model.name} {__version__}   P(abnormal) of this view {view.probability:.3f}",
        "Bright: what speaks for abnormal. It outlines nothing, and may be wrong.",
        NOT_A_DEVICE,
    )
    canvas = Image.new("RGB", (max(size[0], LEAST), size[1] + _LINE * len(caption) + 6))
    left = (canvas.width - size[0]) // 2
    canvas.paste(Image.fromarray(overlay(np.asarray(grey), view.cam)), (left, 0))
    draw = ImageDraw.Draw(canvas)
    for line, text in enumerate(caption):
        place = (6, size[1] + 4 + line * _LINE)
        draw.text(place, text, fill="white", font=ImageFont.load_default(_FONT))
    return np.asarray(canvas, dtype=np.uint8)
