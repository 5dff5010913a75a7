"""The files of a generated project, on a disk or in an archive."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from gatelog.errors import OperatorError

_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the same archive for the same files
_MODE: Final = 0o644 << 16


def zipped(files: Mapping[str, str], folder: str) -> bytes:
    """A zip archive of these files, in a folder of this name."""
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = ZipInfo(f"{folder}/{name}", _NO_DATE)
            info.external_attr, info.compress_type = _MODE, ZIP_DEFLATED
            archive.writestr(info, text.encode())
    return buffer.getvalue()


def put(files: Mapping[str, str], directory: Path) -> None:
    """Write these files into a directory that is not there, or empty.

    Raises OperatorError where there is something in it, or it cannot be written.
    """
    try:
        if directory.exists() and any(directory.iterdir()):
            raise OperatorError(f"there is something in {directory} already")
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {directory}: {error.strerror}") from error
