"""Data by name or path: a registered set, a prepared folder, arrays, or a folder, tar file or table of images."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from matchlib.data.codec import Codec
from matchlib.data.dataset import Dataset, checked_labels, split
from matchlib.data.formats import PAIRS, ImageTransform, Reader, bounded_images, open_reader
from matchlib.data.npy import NpyFile
from matchlib.data.stored import IN_MEMORY, META, Stored, measured, read_meta
from matchlib.errors import DataError, UnknownNameError, nearest
from matchlib.registry import codecs, datasets

__all__ = ["load_dataset"]

ARRAYS = (".npz", ".npy", ".tar", ".parquet")


def load_dataset(name: str | Path | Dataset, options: Mapping[str, Any] | None = None) -> Dataset:
    """Returns the data set that a name or a path stands for.

    Args:
        name: of a registered set, or a folder that ``matchlib prepare`` wrote; or ``FILE.npz`` with an array ``data`` of shape
            ``(n, *event)`` and optionally ``labels`` and ``source``, or with ``arr_0``, bytes of shape ``(n, height, width, channels)``
            as published sample sets have them; or ``FILE.npy`` with the data alone. A folder has images of one size, and its
            sub-folders, if there are any, are the classes; or it has tar files, in which ``KEY.cls`` is the class of ``KEY.png``; or it
            is a table that Hugging Face datasets saved, or of parquet files. ``pairs:FOLDER`` has images of the same names in
            ``FOLDER/source`` and ``FOLDER/data``. Grey images keep their numbers, of 16 or 32 bits as well; colours are read with 8 bits
            a channel; what is transparent is laid over white. What is prepared or in FILE.npy stays on disk where it is large.
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
    place = Path(os.path.expanduser(name))
    if os.path.isfile(place / META):
        return _prepared(name, place)
    reader = open_reader(name)
    if reader is not None:
        return _whole(reader) if reader.file is None else _of_array(name, reader.file)
    if place.suffix in ARRAYS and len(name) <= 200:
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
    if hasattr(value, "__iter__") and not hasattr(value, "__getitem__"):
        return (
            f"the iterator {kind}, which has no index, and a draw is a function of seed and step: write its samples to FILE.npy or a "
            "folder once, then: matchlib prepare FILE.npy --out FOLDER"
        )
    return f"{kind}; arrays become one by Dataset.from_arrays('name', array)"


# -- in memory -------------------------------------------------------------------------------------------------------------


def _whole(reader: Reader) -> Dataset:
    """Reads all samples of a reader."""
    data = _stacked(reader)
    pair = None if reader.pair is None else _stacked(reader.pair)
    return Dataset.from_arrays(reader.name, data, source=pair, labels=reader.labels)


def _stacked(reader: Reader) -> np.ndarray:
    if reader.whole is not None:
        return np.asarray(reader.whole)
    with bounded_images():
        first = reader.read(0, ImageTransform())
    needed = 8 * len(reader) * first.size  # in float64, while it is centred
    if hasattr(os, "sysconf") and needed > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise DataError(
            f"{reader.name}: {len(reader):,} samples of shape {first.shape} do not fit into this machine's memory; "
            f"put them on disk first: matchlib prepare {reader.name} --out FOLDER"
        )
    with bounded_images():
        rows = [first, *(reader.read(i, ImageTransform()) for i in range(1, len(reader)))]
    kinds = {(row.shape, str(row.dtype)) for row in rows}
    if len(kinds) > 1:
        raise DataError(
            f"{reader.name}: images must have one size, number of channels and depth, got {sorted(kinds)[:3]}; "
            f"matchlib prepare {reader.name} --size N --out FOLDER makes them alike"
        )
    return np.stack(rows)


# -- on disk ---------------------------------------------------------------------------------------------------------------


def _large(shape: tuple[int, ...]) -> bool:
    return 4 * math.prod(shape) > IN_MEMORY


def _of_array(name: str, data: NpyFile) -> Dataset:
    """The data of FILE.npy, which stay on disk if they are large."""
    if not _large(data.shape):
        return Dataset.from_arrays(name, data.rows(0, len(data)))
    train, held_out = split(len(data))
    stats = measured(data, held_out.numpy())
    stored = Stored(data, None, None, train, ((stats.shift, stats.scale),), stats.near, stats.digest)
    return Dataset.from_stored(name, stored, held_out, None, stats.limits)


def _prepared(name: str, folder: Path) -> Dataset:
    """A set that ``matchlib prepare`` wrote."""
    meta = read_meta(folder)
    codec: Codec | None = None if meta.codec is None else codecs.build(meta.codec).at(folder)
    there = {"data": True, "source": meta.pairs, "labels": meta.labels, "held_out": meta.held_out}
    files = {part: NpyFile(folder / f"{part}.npy") for part, is_there in there.items() if is_there}
    data, source = files["data"], files.get("source")
    if (len(data), tuple(data.shape[1:]), str(data.dtype)) != (meta.n, meta.shape, meta.dtype) or meta.n < 4:
        raise DataError(f"{folder}: data.npy holds {data.dtype} of shape {data.shape}, not what {META} says")
    if source is not None and source.shape != data.shape:
        raise DataError(f"{folder}: source.npy has shape {source.shape}, but data.npy {data.shape}")
    few = {part: files[part].rows(0, len(files[part])) for part in ("labels", "held_out") if part in files}
    if not _large(data.shape):
        arrays = [None if file is None else file.rows(0, len(file)) for file in (data, source)]
        assert arrays[0] is not None
        dataset = Dataset.from_arrays(name, arrays[0], source=arrays[1], labels=few.get("labels"), held_out=few.get("held_out"))
        return replace(dataset, codec=codec)
    label, classes = checked_labels(name, few.get("labels"), meta.n)
    train, held_out = split(meta.n)
    if "held_out" in few:
        held_out = torch.as_tensor(few["held_out"].astype(np.int64))
        train = torch.as_tensor(np.setdiff1d(np.arange(meta.n), few["held_out"]))
    stats = meta.stats
    if not (0 < stats.scale < math.inf and math.isfinite(stats.shift)):
        raise DataError(f"{folder / META}: shift and scale must be finite, and scale positive, got {stats.shift} and {stats.scale}")
    stored = Stored(data, source, label, train, ((stats.shift, stats.scale),), stats.near, " ".join(meta.digests.values()))
    return replace(Dataset.from_stored(name, stored, held_out, classes, stats.limits), codec=codec)
