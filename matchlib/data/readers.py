"""Data by name or path: a registered set, an npz file, or a folder of images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matchlib.data.dataset import Dataset
from matchlib.errors import DataError, UnknownNameError, nearest
from matchlib.registry import datasets

__all__ = ["load_dataset"]

PAIRS = "pairs:"
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


def load_dataset(name: str, options: Mapping[str, Any] | None = None) -> Dataset:
    """Returns the data set that a name or a path stands for.

    Args:
        name: of a registered set; or ``FILE.npz`` with an array ``data`` of shape ``(n, *event)`` and optionally ``labels`` and
            ``source``; or a folder of images of one size, whose sub-folders, if there are any, are the classes; or ``pairs:FOLDER`` with
            images of the same names in ``FOLDER/source`` and ``FOLDER/data``.
        options: settings of a registered set.

    Raises:
        DataError: there is no such set, or it cannot be used.
    """
    if name in datasets:
        return datasets.build({"name": name, **(options or {})})
    pairs = name.removeprefix(PAIRS)
    path = Path(pairs).expanduser()
    if options:
        raise UnknownNameError(f"data {name!r} is a file or folder and has no settings, got {', '.join(options)}")
    if path.suffix == ".npz" and path.is_file():
        return _from_npz(path)
    if pairs != name:
        return _from_pairs(path)
    if path.is_dir():
        return _from_folder(path)
    known = ", ".join(datasets)
    raise DataError(f"data {name!r} is no registered set ({known}), npz file, folder of images or {PAIRS}FOLDER{nearest(name, datasets)}")


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable npz file of plain arrays: {error}") from error
    unknown = set(arrays) - {"data", "labels", "source"}
    if "data" not in arrays or unknown:
        raise DataError(f"{path} must hold an array 'data' and may hold 'labels' and 'source', got {', '.join(arrays) or 'nothing'}")
    return Dataset.from_arrays(str(path), arrays["data"], source=arrays.get("source"), labels=arrays.get("labels"))


def _files(path: Path) -> list[Path]:
    files = [file for file in path.rglob("*") if file.suffix.lower() in IMAGES]
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(IMAGES)})")
    return sorted(files, key=lambda file: file.with_suffix("").as_posix())


def _images(path: Path, files: list[Path]) -> np.ndarray:
    images = [_image(file) for file in files]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(f"{path}: images must have one size and one number of channels, got {sorted(sizes)[:3]}")
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
    """Reads an image as ``(channels, height, width)``, 0 to 255; grey images have one channel, all others three."""
    from PIL import Image, UnidentifiedImageError  # imported here: only folders of images need it

    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "I", "I;16", "F")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{file} is not a readable image: {error}") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)
