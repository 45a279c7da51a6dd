"""DICOM files that tests make: a radiograph's header around given pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from mura_tune.data.prepare import open_dataset

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


def write_folder(
    root: Path, phantoms: Path, area: str, headers: Callable[[int], Mapping[str, object]]
) -> list[tuple[Path, str, int, str]]:
    """Write an area of phantoms as DICOM files and their labels.csv, in three series.

    Args:
        headers: further fields of the image of a number.

    Returns:
        Of each file: where it is, the path below `phantoms` of the picture in it, its label, and
        its published split.
    """
    frame = open_dataset(phantoms).for_area(area).frame
    labels, files = ["study,label,split"], []
    for number, row in enumerate(frame.itertuples()):
        uid = f"1.2.{frame['study'].tolist().index(row.study)}"
        with Image.open(phantoms / row.path) as image:
            pixels = np.array(image.convert("L"))
        fields = {"PatientID": row.patient, "StudyInstanceUID": uid, **headers(number)}
        place = root / f"series{number % 3}" / f"{number:04d}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(to_bytes(dicom_file(pixels, **fields)))
        labels.append(f"{uid},{row.label},{row.split}")
        files.append((place, row.path, row.label, row.split))
    (root / "labels.csv").write_text("\n".join(dict.fromkeys(labels)) + "\n")
    return files


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
