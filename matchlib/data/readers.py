"""Data by name or path: a registered set, arrays in an npz or npy file, or a folder of images."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matchlib.data.dataset import Dataset
from matchlib.errors import DataError, UnknownNameError, nearest
from matchlib.registry import datasets

__all__ = ["load_dataset"]

PAIRS = "pairs:"
ARRAYS = (".npz", ".npy")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")  # no other decoder is started, whatever a file is called
PUBLISHED = "arr_0"  # the images in a file of samples or of a reference that goes with a paper
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # grey modes of more than 8 bits
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, KeyError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error)


def load_dataset(name: str | Path | Dataset, options: Mapping[str, Any] | None = None) -> Dataset:
    """Returns the data set that a name or a path stands for.

    Args:
        name: of a registered set; or ``FILE.npz`` with an array ``data`` of shape ``(n, *event)`` and optionally ``labels`` and
            ``source``, or with ``arr_0``, bytes of shape ``(n, height, width, channels)`` as published sample sets have them; or
            ``FILE.npy`` with the data alone. A folder has images of one size, and its sub-folders, if there are any, are
            the classes. ``pairs:FOLDER`` has images of the same names in ``FOLDER/source`` and ``FOLDER/data``. Grey images keep
            their numbers, of 16 or 32 bits as well; colours are read with 8 bits a channel; what is transparent is laid over white.
        options: settings of a registered set.

    Raises:
        DataError: there is no such set, or it cannot be used.
    """
    if isinstance(name, Dataset):
        return name
    if not isinstance(name, str | Path) or not str(name):
        raise DataError(f"data must be a name, a path or a Dataset, got {_kind(name)}")
    name = str(name)
    if name in datasets:
        return datasets.build({"name": name, **(options or {})})
    if options:
        raise UnknownNameError(f"data {name!r} is a file or folder and has no settings, got {', '.join(options)}")
    place = os.path.expanduser(name.removeprefix(PAIRS))
    if name.startswith(PAIRS):
        return _from_pairs(Path(place))
    if os.path.isdir(place):
        return _from_folder(Path(place))
    if place.endswith(ARRAYS) and os.path.isfile(place):
        return _from_arrays(Path(place))
    if place.endswith(ARRAYS) and len(name) <= 200:
        raise DataError(f"there is no such file: {name}")
    known = ", ".join(datasets)
    raise DataError(
        f"data {name[:200]!r} is no registered set ({known}), npz or npy file, folder of images or {PAIRS}FOLDER{nearest(name, datasets)}"
    )


def _kind(value: Any) -> str:
    """What something that is no data set is, with what to do."""
    kind = type(value).__name__
    if isinstance(value, str):
        return "an empty name"
    if hasattr(value, "__array__"):
        return f"{kind} of shape {tuple(getattr(value, 'shape', ()))}; arrays become one by Dataset.from_arrays('name', array)"
    if hasattr(value, "parameters"):
        return f"the network {kind}; a network is a teacher by Teacher.from_callable(network, model), and data come after it"
    return f"{kind}; arrays become one by Dataset.from_arrays('name', array)"


def _from_arrays(path: Path) -> Dataset:
    """Reads arrays without running code."""
    try:
        if zipfile.is_zipfile(path):
            _check_size(path)
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return Dataset.from_arrays(str(path), file)
        with file:
            names = set(file.files)
            if PUBLISHED in names and file[PUBLISHED].dtype == np.uint8 and file[PUBLISHED].ndim == 4:
                return Dataset.from_arrays(str(path), file[PUBLISHED].transpose(0, 3, 1, 2))
            if "data" not in names or names - {"data", "labels", "source"}:
                listed = ", ".join(sorted(names)[:8]) or "nothing"
                raise DataError(f"{path} must hold an array 'data' and may hold 'labels' and 'source', got {listed}")
            arrays = {key: file[key] for key in names}
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable file of plain arrays (npz or npy): {_reason(error)}") from error
    return Dataset.from_arrays(str(path), arrays["data"], source=arrays.get("source"), labels=arrays.get("labels"))


def _check_size(path: Path) -> None:
    """Refuses an archive that unpacks to more than this machine's memory."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    if size > memory:
        raise MemoryError(f"it unpacks to {size:,} bytes, more than this machine's memory")


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "pickle" in text:  # numpy's own advice would run the code of the file
        return "it holds Python objects"
    return next(iter(text.splitlines()), "") or type(error).__name__


def _files(path: Path) -> list[Path]:
    every = path.rglob("*") if os.path.isdir(path) else ()
    files = [file for file in every if file.suffix.lower() in IMAGES and os.path.isfile(file)]
    if not files:
        raise DataError(f"{str(path)[:200]} holds no images ({', '.join(IMAGES)})")
    return sorted(files, key=lambda file: file.with_suffix("").as_posix())


def _images(path: Path, files: list[Path]) -> np.ndarray:
    images = [_image(file) for file in files]
    kinds = {(image.shape, str(image.dtype)) for image in images}
    if len(kinds) > 1:
        raise DataError(f"{path}: images must have one size, number of channels and depth, got {sorted(kinds)[:3]}")
    return np.stack(images)


def _labels(files: list[Path]) -> np.ndarray | None:
    """The folders of files as classes, if there are several."""
    classes = sorted({file.parent for file in files})
    return np.array([classes.index(file.parent) for file in files]) if len(classes) > 1 else None


def _from_folder(path: Path) -> Dataset:
    files = _files(path)
    return Dataset.from_arrays(str(path), _images(path, files), labels=_labels(files))


def _from_pairs(path: Path) -> Dataset:
    data, source = _files(path / "data"), _files(path / "source")
    names = [
        {file.relative_to(path / part).with_suffix("").as_posix() for file in files} for part, files in (("data", data), ("source", source))
    ]
    alone = sorted(names[0] ^ names[1])
    if alone:
        raise DataError(f"{path}: every image needs its pair in data/ and source/; {len(alone)} have none, such as {alone[0]}")
    return Dataset.from_arrays(
        f"{PAIRS}{path}", _images(path / "data", data), source=_images(path / "source", source), labels=_labels(data)
    )


def _image(file: Path) -> np.ndarray:
    """Reads an image as ``(channels, height, width)``; grey images have one channel, all others three."""
    from PIL import Image  # imported here: only folders of images need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                pixels = _pixels(image)
    except (*UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{file} is not a readable image ({', '.join(FORMATS)}): {_reason(error)}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _pixels(image: Any) -> np.ndarray:
    """The numbers of an image, ``(height, width)`` if it is grey, else ``(height, width, 3)``."""
    from PIL import Image

    if image.mode in DEEP:
        pixels = np.asarray(image)
        return pixels.astype(pixels.dtype.newbyteorder("="))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert(mode))
