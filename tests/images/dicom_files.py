"""DICOM files for tests, written by pydicom itself."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def dicom_set(values, *, frames=0, **tags):
    """Return a data set of gray values, shape ([frames,] height, width), or with colours last."""
    values = np.asarray(values)
    height, width = values.shape[1:3] if frames else values.shape[:2]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["one"])
    data.Modality = "CT"
    data.Rows, data.Columns = height, width
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SamplesPerPixel = 1
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.PixelRepresentation = int(values.dtype.kind == "i")
    if frames:
        data.NumberOfFrames = frames
    data.PixelData = values.tobytes() + bytes(values.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    return data


def save(data, syntax=None):
    if syntax is not None:
        data.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom(values, **tags):
    return save(dicom_set(values, **tags))


def compressed(values, frame, syntax, **tags):
    data = dicom_set(values, **tags)
    data.PixelData = encapsulate([frame])
    return save(data, syntax)


def item(**tags):
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return data
