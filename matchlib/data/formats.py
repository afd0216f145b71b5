"""Formats of data: samples by number, read one by one from folders of images, tar files, Arrow or arrays larger than memory."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import re
import tarfile
import warnings
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from matchlib.data.npy import NpyFile, open_plain
from matchlib.errors import DataError, MatchlibError

__all__ = [
    "PAIRS",
    "UNREADABLE",
    "Arrays",
    "ArrowTable",
    "ImageFiles",
    "ImageTransform",
    "Reader",
    "TarShards",
    "bounded_images",
    "open_reader",
    "reason",
]

PAIRS = "pairs:"
PASSED_OVER = (
    "%s: %d images are left out whose names have more than one dot, such as %s: WebDataset reads what follows the first as the kind of file"
)
logger = logging.getLogger("matchlib")
SPLITS = ("train", "test", "validation", "valid", "val", "dev")  # with which names of shards begin
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")  # no other decoder is started, whatever a file is called
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # grey modes of more than 8 bits
PUBLISHED = "arr_0"  # the images in a file of samples or of a reference that goes with a paper
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, KeyError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error, TokenError)
ARROW = ("dataset_dict.json", "state.json")  # one of them is in a folder that ``save_to_disk`` of Hugging Face datasets wrote
LARGE = 1 << 28  # bytes of an npy file that is not read whole
LABEL = ".cls"  # the extension of labels in tar files


@dataclass(frozen=True)
class ImageTransform:
    """How images of different sizes and kinds become alike.

    Args:
        size: of the square that is cut from the middle, its side the image's shorter one, and scaled to ``size``; None leaves sizes.
        channels: 1 for grey, 3 for colours; None leaves grey images grey and others in colour.
    """

    size: int | None = None
    channels: int | None = None

    def __call__(self, image: Any) -> np.ndarray:
        """Returns the numbers of an image, ``(channels, height, width)``; what is transparent is laid over white."""
        pixels = _pixels(image, self)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


class Reader(ABC):
    """Samples by number.

    Attributes:
        name: as the user wrote it.
        labels: of every sample: integers or floats, shape ``(n, ...)``; None without.
        classes: names of the classes; empty if they have none.
        pair: what the samples are paired with, sample by sample.
        whole: all samples, where reading one means reading all.
        file: the array that holds them, where it is one on disk.
    """

    name: str
    labels: np.ndarray | None = None
    classes: Sequence[str] = ()
    pair: Reader | None = None
    whole: np.ndarray | None = None
    file: NpyFile | None = None

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def read(self, i: int, transform: ImageTransform) -> np.ndarray:
        """Returns a sample, shape ``event``.

        Raises:
            DataError: it cannot be read; the message names it.
        """

    @abstractmethod
    def stamp(self) -> str:
        """Returns what changes when the files do: names, sizes, times."""


def open_reader(name: str | Path) -> Reader | None:
    """Returns the reader of what a path names; None where it names nothing that has one.

    Raises:
        DataError: it holds nothing that can be read.
    """
    place = Path(os.path.expanduser(str(name).removeprefix(PAIRS)))
    if str(name).startswith(PAIRS):
        return _pairs(str(name), place)
    if os.path.isdir(place):
        return _folder(str(name), place)
    suffix = place.suffix.lower()
    if suffix not in (".npz", ".npy", ".tar", ".parquet") or not os.path.exists(place):
        return None
    if not os.path.isfile(place):
        raise DataError(f"{place} is no plain file")
    if suffix == ".tar":
        return TarShards(str(name), [place])
    return ArrowTable(str(name), [place]) if suffix == ".parquet" else Arrays(str(name), place)


def _folder(name: str, place: Path) -> Reader:
    if any(os.path.isfile(place / part) for part in ARROW):
        return ArrowTable(name, [])
    kinds: dict[str, Callable[[str, list[Path]], Reader]] = {".tar": TarShards, ".parquet": ArrowTable}
    shards = {suffix: sorted(place.glob(f"*{suffix}")) for suffix in kinds}
    there = [suffix for suffix, files in shards.items() if files]
    if there and (len(there) > 1 or next(_images_in(place), None) is not None):
        raise DataError(f"{place} holds {' and '.join([*there, 'images'])} files: which of them are the data? Give a folder of one kind")
    for suffix in there:
        _check_one_split(place, (file.name for file in shards[suffix]), "move the files of one to a folder of its own")
        return kinds[suffix](name, shards[suffix])
    return ImageFiles(name, place)


def _check_one_split(place: Path, names: Iterable[str], remedy: str) -> None:
    """Refuses several splits, as ``train-0.parquet`` and ``test-0.parquet`` are: they would be mixed."""
    found = sorted({part for name in names for part in SPLITS if re.match(rf"{part}\b|{part}_", name)})
    if len(found) > 1:
        raise DataError(f"{place} holds the splits {', '.join(found)}, which would be mixed; {remedy}")


def _images_in(place: Path) -> Iterator[str]:
    """Yields images below a folder, by links as well, but for files and folders whose name begins with a dot."""
    seen = set[tuple[int, int]]()
    for folder, folders, files in os.walk(place, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to where we came from
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGES and os.path.isfile(os.path.join(folder, file)):
                yield os.path.join(folder, file)  # as text: paths by the million are slow


def _pairs(name: str, place: Path) -> Reader:
    data, source = ImageFiles(name, place / "data"), ImageFiles(name, place / "source")
    stems = [[os.path.splitext(os.path.relpath(file, part.place))[0] for file in part.files] for part in (data, source)]
    twice = sorted(stem for part in stems for stem, count in Counter(part).items() if count > 1)
    if twice:
        raise DataError(f"{place}: images are paired by their names without suffix, and {twice[0]} is there more than once; rename some")
    alone = sorted(set(stems[0]) ^ set(stems[1]))
    if alone:
        raise DataError(f"{place}: every image needs its pair in data/ and source/; {len(alone)} have none, such as {alone[0]}")
    data.pair = source
    return data


def reason(error: BaseException) -> str:
    """The first line of what went wrong with a file of data."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "pickle" in text:  # numpy's own advice would run the code of the file
        return "it holds Python objects"
    return next(iter(text.splitlines()), "") or type(error).__name__


def _stamp_of(files: Sequence[str | Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = os.stat(file)
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


# -- images ----------------------------------------------------------------------------------------------------------------


class ImageFiles(Reader):
    """The images of a folder and of its sub-folders, which are the classes if there are several; names with a dot in front are left out.

    Raises:
        DataError: there are none.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name, self.place = name, place
        found = list(_images_in(place))
        if not found:
            raise DataError(f"{str(place)[:200]} holds no images ({', '.join(IMAGES)})")
        self.files = sorted(found, key=lambda file: os.path.splitext(file)[0])
        folders = [os.path.dirname(file) for file in self.files]
        tops = {Path(folder).relative_to(place).parts[:1] for folder in set(folders)}
        splits = [part for part in SPLITS if (part,) in tops]
        if len(splits) == len(tops) > 1:  # among others they are classes
            join = f"matchlib prepare {place}/{splits[0]} --held-out {place}/{splits[1]} --out DATA"
            _check_one_split(place, splits, f"give one of its folders, or join them: {join}")
        classes = {folder: k for k, folder in enumerate(sorted(set(folders), key=Path))}
        if len(classes) > 1:
            self.labels = np.array([classes[folder] for folder in folders])
            self.classes = [Path(folder).relative_to(place).as_posix() for folder in classes]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int, transform: ImageTransform) -> np.ndarray:
        return _decoded(self.files[i], self.files[i], transform)

    def stamp(self) -> str:
        return _stamp_of(self.files)


@contextmanager
def bounded_images() -> Iterator[None]:
    """A context in which images that unpack to very many pixels are refused in silence; ``_decoded`` says so."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _decoded(file: str | BinaryIO, name: str, transform: ImageTransform) -> np.ndarray:
    from PIL import Image  # imported here: only images need it

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise DataError(
                    f"{name} is a decompression bomb: {image.width} x {image.height} pixels, at most {Image.MAX_IMAGE_PIXELS:,} are read"
                )
            return transform(image)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a readable image ({', '.join(FORMATS)}): {reason(error)}") from error


def _pixels(image: Any, transform: ImageTransform) -> np.ndarray:
    """The numbers of an image, ``(height, width)`` if it is to be grey, else ``(height, width, 3)``."""
    from PIL import Image, ImageOps

    if image.mode in DEEP and transform.channels != 3:
        if transform.size is None:
            pixels = np.asarray(image)
            return pixels.astype(pixels.dtype.newbyteorder("="))
        kind = np.asarray(image).dtype.newbyteorder("=")
        floats = Image.fromarray(np.asarray(image).astype(np.float32))
        scaled = np.asarray(ImageOps.fit(floats, (transform.size, transform.size), method=Image.Resampling.BICUBIC))
        limits = None if kind.kind == "f" else np.iinfo(kind)
        return scaled.astype(kind) if limits is None else scaled.round().clip(limits.min, limits.max).astype(kind)
    if image.mode in DEEP:
        raise ValueError(f"a grey image of mode {image.mode}, which has no colours of 8 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    mode = ("L" if grey else "RGB") if transform.channels is None else {1: "L", 3: "RGB"}[transform.channels]
    if transform.size is not None:
        image.draft(mode, (2 * transform.size, 2 * transform.size))  # JPEG decodes at a part of the size where that is more than enough
    image = ImageOps.exif_transpose(image)
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert(mode)
    if transform.size is not None:
        image = ImageOps.fit(image, (transform.size, transform.size), method=Image.Resampling.BICUBIC)
    return np.asarray(image)


# -- tar files -------------------------------------------------------------------------------------------------------------


class TarShards(Reader):
    """Images in tar files, ``KEY.png`` beside ``KEY.cls`` with a whole number where there are labels, as WebDataset lays them out.

    Only an index of offsets is read at first, and nothing is unpacked to disk.

    Raises:
        DataError: a file is no plain tar file, or names a place outside, or labels are missing for some.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name, self.files = name, list(files)
        self._images: list[tuple[int, str, int, int]] = []  # file, name, offset, bytes
        labels: dict[tuple[int, str], int] = {}
        passed_over: list[str] = []
        for k, file in enumerate(self.files):
            with os.fdopen(open_plain(file), "rb") as raw:
                for key, suffix, member in _members(file, raw):
                    if suffix in IMAGES:
                        self._images.append((k, key, member.offset_data, member.size))
                    elif suffix == LABEL:
                        labels[k, key] = _class_of(os.pread(raw.fileno(), 20, member.offset_data)[: member.size], f"{file}: {member.name}")
                    elif os.path.splitext(suffix)[1] in IMAGES:
                        passed_over.append(member.name)
        if not self._images:
            raise DataError(f"{name} holds no images ({', '.join(IMAGES)})" + (f", only {passed_over[0]}" if passed_over else ""))
        if passed_over:
            logger.warning(PASSED_OVER, name, len(passed_over), passed_over[0])
        if labels:
            lacking = [key for k, key, *_ in self._images if (k, key) not in labels]
            if lacking:
                raise DataError(f"{name}: {len(lacking)} of {len(self._images)} images have no {LABEL} file, such as {lacking[0]}")
            self.labels = np.array([labels[k, key] for k, key, *_ in self._images])
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._images)

    def read(self, i: int, transform: ImageTransform) -> np.ndarray:
        k, key, offset, size = self._images[i]
        if k not in self._open:
            self._open[k] = open_plain(self.files[k])
        content = os.pread(self._open[k], size, offset)
        return _decoded(io.BytesIO(content), f"{key} of {self.files[k]}", transform)

    def stamp(self) -> str:
        return _stamp_of(self.files)

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            os.close(file)


def _members(file: Path, raw: BinaryIO) -> list[tuple[str, str, tarfile.TarInfo]]:
    """The plain files of a tar file: key, extension, and where they are."""
    found = []
    try:
        with tarfile.open(fileobj=raw, mode="r:") as archive:
            for member in archive:
                parts = Path(member.name).parts
                if ".." in parts or member.name.startswith("/"):
                    raise DataError(f"{file} names {member.name[:100]!r}, a place outside of it")
                if member.isreg():
                    head, _, tail = parts[-1].partition(".")
                    found.append(("/".join((*parts[:-1], head)), f".{tail.lower()}", member))
    except tarfile.TarError as error:
        raise DataError(f"{file} is not a plain tar file (compressed ones are to be decompressed first): {reason(error)}") from error
    return found


def _class_of(text: bytes, where: str) -> int:
    digits = text.strip()
    if not digits.isdigit() or len(digits) > 18:
        raise DataError(f"{where} must hold the number of a class, got {digits[:20]!r}")
    return int(digits)


# -- Arrow -----------------------------------------------------------------------------------------------------------------


def _type_of(feature: Any) -> np.dtype:
    """Returns the type of the numbers in a column; the package's own choice would widen bytes and round float64.

    Raises:
        DataError: it holds no numbers.
    """
    while hasattr(feature, "feature"):
        feature = feature.feature
    try:
        return np.dtype(feature.dtype)
    except (TypeError, AttributeError) as error:
        raise DataError(f"a column of data holds {feature}, and numbers are wanted") from error


class ArrowTable(Reader):
    """A folder that ``save_to_disk`` of Hugging Face datasets wrote, or parquet files: a column of images or arrays, one of labels.

    Raises:
        MatchlibError: the package datasets is not installed.
        DataError: it cannot be read, or has no such column.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        try:
            import datasets as hf
        except ImportError as error:
            raise MatchlibError(f"{name} needs the package datasets: pip install 'matchlib[arrow]'") from error
        from matchlib.io import cache_folder

        self.name, self.files = name, list(files)
        place = Path(os.path.expanduser(name))
        hf.disable_progress_bars()
        try:
            table: Any = (
                hf.Dataset.from_parquet([str(file) for file in files], cache_dir=str(cache_folder() / "arrow"))
                if files
                else hf.load_from_disk(str(place))
            )
        except Exception as error:  # whatever it is, of whichever of the packages below
            raise DataError(f"{name} cannot be read as a table of datasets: {reason(error)}") from error
        if isinstance(table, Mapping):
            if "train" not in table:
                raise DataError(f"{name} has no split 'train' (it has: {', '.join(table)}); name the folder of one of them")
            table = table["train"]
        self.files = self.files or sorted(file for file in place.rglob("*.arrow") if file.is_file())
        columns: dict[str, Any] = table.features
        images = [key for key, kind in columns.items() if isinstance(kind, hf.Image)]
        arrays = [key for key in ("data", "image", "img") if key in columns and key not in images]
        self._column, self._is_image = (*images, *arrays, "")[0], bool(images)
        if not self._column:
            raise DataError(f"{name} has no column of images, and none called 'data' or 'image' (it has: {', '.join(columns)})")
        named = [key for key, kind in columns.items() if isinstance(kind, hf.ClassLabel)]
        label = next(iter([*named, *(key for key in ("label", "labels") if key in columns)]), None)
        if label is not None:
            self.labels = np.asarray(table.with_format("numpy")[label][:])
            self.classes = list(columns[label].names) if named else ()
        kept = table.select_columns([self._column])
        if images:
            self._table = kept.cast_column(self._column, hf.Image(decode=False))
        else:
            self._table = kept.with_format("numpy", dtype=_type_of(columns[self._column]))

    def __len__(self) -> int:
        return len(self._table)

    def read(self, i: int, transform: ImageTransform) -> np.ndarray:
        value = self._table[i][self._column]
        if not self._is_image:
            return np.asarray(value)
        if not value.get("bytes"):
            raise DataError(f"sample {i} of {self.name} is the path of a file elsewhere; tables are read that hold their images")
        return _decoded(io.BytesIO(value["bytes"]), f"sample {i} of {self.name}", transform)

    def stamp(self) -> str:
        return _stamp_of(self.files)


# -- arrays ----------------------------------------------------------------------------------------------------------------


class Arrays(Reader):
    """The arrays of an npz file (``data``, ``labels``, ``source``), or the one of an npy file.

    A large npy file is not read whole.

    Raises:
        DataError: it is not such a file.
    """

    def __init__(self, name: str, place: Path, whole: np.ndarray | None = None) -> None:
        self.name, self.place, self.whole = name, place, whole
        if whole is not None:
            return
        if place.suffix.lower() == ".npy" and os.path.getsize(place) > LARGE and not zipfile.is_zipfile(place):
            self.file = NpyFile(place)
            return
        arrays = _npz(place)
        self.whole, self.labels = arrays["data"], arrays.get("labels")
        if "source" in arrays:
            self.pair = Arrays(name, place, arrays["source"])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _rows(self) -> Any:
        return self.whole if self.file is None else self.file

    def read(self, i: int, transform: ImageTransform) -> np.ndarray:
        if transform != ImageTransform():
            raise DataError(f"{self.name} holds arrays, which are taken as they are: size and channels are for images")
        return np.asarray(self.whole[i] if self.whole is not None else self._rows.take(np.array([i]))[0])

    def stamp(self) -> str:
        return _stamp_of([self.place])


def _npz(path: Path) -> dict[str, np.ndarray]:
    """Reads arrays without running code."""
    try:
        if zipfile.is_zipfile(path):
            _check_size(path)
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return {"data": file}
        with file:
            names = set(file.files)
            if PUBLISHED in names and file[PUBLISHED].dtype == np.uint8 and file[PUBLISHED].ndim == 4:
                return {"data": file[PUBLISHED].transpose(0, 3, 1, 2)}
            if "data" not in names or names - {"data", "labels", "source"}:
                listed = ", ".join(sorted(names)[:8]) or "nothing"
                raise DataError(f"{path} must hold an array 'data' and may hold 'labels' and 'source', got {listed}")
            return {key: file[key] for key in names}
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable file of plain arrays (npz or npy): {reason(error)}") from error


def _check_size(path: Path) -> None:
    """Refuses an archive that unpacks to more than this machine's memory."""
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    if size > memory:
        raise MemoryError(f"it unpacks to {size:,} bytes, more than this machine's memory")
