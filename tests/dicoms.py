"""DICOM files that tests make: a radiograph's header around given pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

SECRET = "DOE^JANE"


def dicom_file(pixels: NDArray[Any], **fields: object) -> FileDataset:
    """A CR file of stored values (H, W); `fields` are set after, or removed where they are None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = fields.pop("syntax", ExplicitVRLittleEndian)
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 * pixels.dtype.itemsize
    about: dict[str, object] = {
        "SOPClassUID": ComputedRadiographyImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3.4",
        "PatientID": SECRET,
        "PatientName": SECRET,
        "Modality": "CR",
        "BodyPartExamined": "WRIST",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **fields,
    }
    for name, value in about.items():
        if value is not None:
            setattr(file, name, value)
    if "PixelData" not in fields:
        file.PixelData = pixels.tobytes()
        file["PixelData"].VR = "OW"
    return file


def to_bytes(file: FileDataset) -> bytes:
    """The file as it lies on a disk."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


def table(first: int, bits: int, entries: NDArray[np.uint16]) -> list[Dataset]:
    """A sequence with one lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    return [item]
