"""Arrays in ``.npy`` files of which rows are read where they lie.

Rows are read with ``pread`` and not through a mapping: what a mapping has touched counts as the process's own memory, and a file that is
cut short while it is mapped ends the process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from matchlib.errors import DataError

__all__ = ["HEADER", "NpyFile", "header", "open_plain"]

HEADER = 128  # bytes of the headers that we write, so that one can be written anew when the number of rows is known
KINDS = "fiub"  # numbers


def header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Returns the first ``HEADER`` bytes of a file of an array in C order.

    Raises:
        DataError: the shape has too many digits for them.
    """
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    room = HEADER - 10 - 1
    if len(text) > room:
        raise DataError(f"arrays of shape {shape} cannot be written")
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(room).encode("latin1") + b"\n"


def open_plain(path: Path) -> int:
    """Opens a plain file for reading and returns its number; a pipe is not waited for.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise DataError(f"{path} is no plain file")
    return file


class NpyFile:
    """An array on disk.

    Args:
        path: ``FILE.npy``, in C order, of numbers.

    Raises:
        DataError: it is something else, or shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, open_plain(path)
        try:
            with os.fdopen(os.dup(self._file), "rb") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self.shape, fortran, self.dtype = read(file)
                self._begin = file.tell()
        except (OSError, ValueError, SyntaxError, TokenError) as error:
            raise DataError(f"{path} is not a readable npy file: {next(iter(str(error).splitlines()), '')}") from error
        if self.dtype.kind not in KINDS or fortran or not self.shape or 0 in self.shape:
            order = ", in Fortran's order" if fortran else ""
            raise DataError(f"{path} must hold rows of numbers in C order, got {self.dtype} of shape {self.shape}{order}")
        self._row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        size = self._begin + self.shape[0] * self._row
        if os.fstat(self._file).st_size < size:
            raise DataError(f"{path} is cut short: {size:,} bytes were to come, there are {os.fstat(self._file).st_size:,}")

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyFile, (self.path,)  # a copy opens the file for itself

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return len(self) * self._row

    def take(self, index: np.ndarray) -> np.ndarray:
        """Returns rows in the machine's byte order, shape ``(len(index), *event)``.

        Raises:
            DataError: the file has been cut short.
        """
        result = np.empty((len(index), *self.shape[1:]), self.dtype)
        bytes_of = memoryview(result.reshape(-1).view(np.uint8).data)
        for k, i in enumerate(index.tolist()):
            self._read(bytes_of[k * self._row : (k + 1) * self._row], i)
        return result.astype(self.dtype.newbyteorder("="), copy=False)

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Returns neighbouring rows in the machine's byte order.

        Raises:
            DataError: the file has been cut short.
        """
        result = np.empty((end - begin, *self.shape[1:]), self.dtype)
        self._read(memoryview(result.reshape(-1).view(np.uint8).data), begin)
        return result.astype(self.dtype.newbyteorder("="), copy=False)

    def _read(self, into: memoryview, row: int) -> None:
        done = 0
        while done < len(into):
            got = os.preadv(self._file, [into[done:]], self._begin + row * self._row + done)
            if not got:
                raise DataError(f"{self.path} was cut short while it was read")
            done += got

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)
