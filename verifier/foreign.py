"""Files that are not what they were given for: told by their first bytes, with the way out.

What people hand in by mistake is of few kinds: the two files in the wrong order, the pointer that stands for a file in
a clone made without Git LFS, a web page that a download gave instead of the file, a checkpoint of the framework that
the model was trained with, an archive.
"""

from __future__ import annotations

import re

EXPORT = "export the model to ONNX"
PYTORCH = f"{EXPORT} with torch.onnx.export"
FIRST = (  # first bytes, what the file is, the way out
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", f"{EXPORT}, with tf2onnx for instance"),
    (b"BZh", "packed with bzip2", "unpack it"),
    (b"\xfd7zXZ\x00", "packed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
)
PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
PROPERTY = re.compile(rb"(\s|;[^\n]*\n)*\(\s*(declare-|assert|vnnlib-version|set-|define-)")
PICKLE = re.compile(rb"\x80[\x02-\x05][\x00-\xff]")
ONNX = re.compile(rb"\x08[\x01-\x1f][\x0a\x12\x1a\x22\x28\x32\x3a\x42]")  # the version of its format, another field


def recognised(data: bytes) -> str:
    """What the content of a file is and the way out, as 'a Git LFS pointer: fetch …'; '' where that is not known."""
    found = next(((what, way) for first, what, way in FIRST if data.startswith(first)), None)
    if found is None and data.startswith(b"PK\x03\x04"):
        found = _archive(data)
    if found is None and data[4:8] == b"TFL3":
        found = "a TensorFlow Lite model", f"{EXPORT}, with tf2onnx for instance"
    if found is None and PICKLE.match(data):
        found = "a Python pickle, as PyTorch and scikit-learn write them", f"{PYTORCH} or skl2onnx"
    if found is None and PAGE.match(data[:4096]):
        found = "a web page", "the download may need another address or a login"
    return ": ".join(found) if found else ""


def _archive(data: bytes) -> tuple[str, str]:
    """A zip file, by the names in its directory, which stands at its end."""
    names = data[:4096] + data[-65536:]
    if b"data.pkl" in names or b"constants.pkl" in names:
        return "a PyTorch checkpoint", PYTORCH
    if b"model.weights.h5" in names:
        return "a Keras model", f"{EXPORT}, with `model.export(…, format='onnx')`"
    return "a zip archive", "unpack it"


def is_property(data: bytes) -> bool:
    """Whether this begins like a VNN-LIB property."""
    return PROPERTY.match(data[: 1 << 16]) is not None


def is_onnx(data: bytes) -> bool:
    """Whether this begins like an ONNX file."""
    return ONNX.match(data) is not None
