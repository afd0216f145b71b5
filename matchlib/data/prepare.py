"""Prepared sets: data of any format, read once, written as arrays of which training reads rows."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, ValidationError

from matchlib.data.codec import Codec
from matchlib.data.dataset import checked_labels, split
from matchlib.data.formats import ImageTransform, Reader, bounded_images, open_reader
from matchlib.data.npy import HEADER, NpyFile, header
from matchlib.data.stored import META, Meta, digest_of, stats_of
from matchlib.errors import ArtifactError, DataError, Interrupted, SettingError
from matchlib.io import LOCK, is_empty, lock, read_json, unlock, write_atomically, write_json
from matchlib.registry import codecs

__all__ = ["Prepared", "prepare"]

STATE = "unfinished.json"
PARTS = ("data", "source", "labels", "held_out")  # the arrays of a prepared set
SAVED, PAUSE = 1 << 26, 2.0  # bytes written, and seconds, between two states that a killed preparation goes on from, at most
AHEAD = 16  # samples that each worker is given at once
LEAST = 4  # samples of a set
MOST_WORKERS = 1024
LARGEST = 8192  # side of an image


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Args:
        n: samples.
        broken: what could not be read, each with the reason.
    """

    n: int
    shape: tuple[int, ...]
    dtype: str
    broken: Sequence[str]


class _State(BaseModel):
    """How far a preparation is.

    Args:
        request: the data and how they are to be prepared.
        done: samples that were looked at.
        lacking: those of them that could not be read, and why.
        shape, dtype: of a sample; None and empty before the first.
    """

    model_config = ConfigDict(extra="forbid")
    request: str
    done: Annotated[int, Ge(0)] = 0
    lacking: dict[int, str] = {}
    shape: tuple[Annotated[int, Gt(0)], ...] | None = None
    dtype: str = ""

    @property
    def rows(self) -> int:
        return self.done - len(self.lacking)

    @property
    def row_bytes(self) -> int:
        return 0 if self.shape is None else math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def write(self, folder: Path) -> None:
        write_json(folder / STATE, self.model_dump())

    @classmethod
    def read(cls, folder: Path, request: str, total: int) -> _State | None:
        """Returns that of a folder, if it is one of the same request."""
        try:
            state = cls(**read_json(folder / STATE))
            fits = state.done <= total and all(0 <= i < state.done for i in state.lacking) and state.row_bytes >= 0
        except (ArtifactError, ValidationError, TypeError, ValueError):
            return None
        return state if fits and state.request == request and bool(state.rows) == (state.shape is not None) else None


def prepare(
    data: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    channels: int | None = None,
    held_out: str | Path | None = None,
    encode: str | Mapping[str, Any] | None = None,
    strict: bool = False,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Prepared:
    """Writes data as a prepared set, a folder for ``data=``; the same call goes on where it was interrupted.

    Args:
        data: a folder of images of any sizes, tar files, a table of Hugging Face datasets, parquet, npz or npy; see ``load_dataset``.
        out: a new folder, or one that this very call began.
        size: of images, which are cut to squares and scaled; None if they have one size.
        channels: 1 for grey, 3 for colours; None for colours if the first image has some.
        held_out: the held-out data, likewise; by default a fixed fifth of ``data``.
        encode: a codec, whose latents are written in place of the data: ``vae:FOLDER``, or its name and settings.
        strict: whether a sample that cannot be read is an error; else it is left out and listed.
        workers: threads that read and decode; None for as many as there are cores.
        on_progress: called with the samples done and all of them.
        should_stop: request now and then; True ends with what was written kept.

    Raises:
        DataError: nothing can be read, samples differ in shape, one cannot be encoded, or, if ``strict``, one cannot be read.
        ArtifactError: ``out`` holds something else.
        Interrupted: ``should_stop`` said so.
    """
    if size is not None and not 1 <= size <= LARGEST:
        raise SettingError(f"size must lie in 1 to {LARGEST}, got {size}")
    if channels not in (None, 1, 3):
        raise SettingError(f"channels must be 1 or 3, got {channels}")
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise SettingError(f"workers must lie in 1 to {MOST_WORKERS}, got {workers}")
    readers = [_opened(name) for name in (data, held_out) if name is not None]
    if any((other.pair is None, other.labels is None) != (readers[0].pair is None, readers[0].labels is None) for other in readers):
        raise DataError(f"{readers[1].name} and {readers[0].name} must both have labels, or pairs, or neither")
    kinds = ["whole numbers" if np.asarray(part.labels).dtype.kind in "iub" else "other numbers" for part in readers]
    if len(set(kinds)) > 1:
        raise DataError(f"labels of {readers[0].name} are {kinds[0]}, those of {readers[1].name} {kinds[1]}: they must be of one kind")
    if any(list(other.classes) != list(readers[0].classes) for other in readers):
        raise DataError(
            f"{readers[1].name} and {readers[0].name} must have the same classes, got {readers[1].classes} and {readers[0].classes}"
        )
    folder, transform, codec = Path(out).expanduser(), ImageTransform(size, channels), _codec(encode)
    described = None if codec is None else codecs.describe(codec)
    request = json.dumps([[part.name, part.stamp()] for part in readers] + [size, channels, strict, described])
    total = sum(len(part) for part in readers)
    _check_place(folder, request, total)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    try:
        state = _State.read(folder, request, total)
        if state is None:
            state = _State(request=request)
            state.write(folder)
        samples = _Samples(readers, transform, strict, workers or os.cpu_count() or 1)
        _write_rows(folder, samples, codec, state, on_progress, should_stop)
        return _finish(folder, samples, state, {"made_from": str(data), "size": size, "channels": channels, "codec": described})
    except DataError:  # the data have to change, and are others then
        _remove(folder)
        raise
    finally:
        unlock(folder)
        if not any(path.name != LOCK for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _codec(encode: str | Mapping[str, Any] | None) -> Codec | None:
    """Returns the codec that is asked for, NAME:PATH or its name and settings."""
    if encode is None:
        return None
    name, separator, path = encode.partition(":") if isinstance(encode, str) else ("", "", "")
    if isinstance(encode, str) and not (separator and path):
        raise SettingError(f"encode is a codec and its folder, such as {next(iter(codecs))}:FOLDER, got {encode!r}")
    codec: Codec = codecs.build({"name": name, "path": path} if isinstance(encode, str) else encode)
    codec.check()
    return codec.pinned()


def _check_place(folder: Path, request: str, total: int) -> None:
    """Refuses a place that holds something else, before anything is written there."""
    if "\0" in str(folder):
        raise ArtifactError(f"{str(folder)!r} is no path: it has a null character")
    if str(folder) == ".":
        raise ArtifactError("name a new folder for the prepared set, and not the working folder")
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder; name a new one")
    if folder.exists() and not is_empty(folder) and _State.read(folder, request, total) is None:
        what = "is a prepared set" if (folder / META).exists() else "holds something else"
        raise ArtifactError(f"{folder} {what} already; name a new folder")


def _remove(folder: Path) -> None:
    """Removes what a preparation has written."""
    for name in (STATE, *(f"{part}.npy" for part in PARTS)):
        (folder / name).unlink(missing_ok=True)


def _opened(name: str | Path) -> Reader:
    reader = open_reader(name)
    if reader is None:
        raise DataError(
            f"{str(name)[:200]!r} cannot be prepared: give a folder of images, a .tar file or a folder of them, a table that Hugging Face "
            "datasets saved, .parquet, .npz or .npy"
        )
    return reader


@dataclass(frozen=True)
class _Samples:
    """Samples of one reader after another, with what they are paired with."""

    readers: Sequence[Reader]
    transform: ImageTransform
    strict: bool
    workers: int

    def __len__(self) -> int:
        return sum(len(reader) for reader in self.readers)

    @property
    def paired(self) -> bool:
        return self.readers[0].pair is not None

    def read(self, i: int, transform: ImageTransform) -> list[np.ndarray] | str:
        """Returns a sample and its pair, or why it cannot be read."""
        reader = self.readers[0]
        if i >= len(reader):
            i, reader = i - len(reader), self.readers[1]
        try:
            return [part.read(i, transform) for part in (reader, reader.pair) if part is not None]
        except DataError as error:
            if self.strict:
                raise
            return str(error)

    def following(self, begin: int, transform: ImageTransform) -> Iterator[list[list[np.ndarray] | str]]:
        """Yields the samples from ``begin`` on, ``AHEAD`` at once, read by several threads some way ahead."""
        starts = iter(range(begin, len(self), AHEAD))

        def block(first: int) -> list[list[np.ndarray] | str]:
            return [self.read(i, transform) for i in range(first, min(first + AHEAD, len(self)))]

        with ThreadPoolExecutor(self.workers) as pool, bounded_images():
            waiting = deque(pool.submit(block, first) for first in islice(starts, 2 * self.workers))
            while waiting:
                samples = waiting.popleft().result()
                waiting.extend(pool.submit(block, first) for first in islice(starts, 1))
                yield samples

    def common_transform(self) -> ImageTransform:
        """Returns how samples are made alike: as request, and in colour if the first one that can be read is."""
        if self.transform.channels is not None or self.transform == ImageTransform():
            return self.transform
        with bounded_images():
            found = next((x for i in range(len(self)) if not isinstance(x := self.read(i, self.transform), str)), None)
        return ImageTransform(self.transform.size, 3) if found is not None and len(found[0]) == 3 else self.transform


def _write_rows(
    folder: Path,
    samples: _Samples,
    codec: Codec | None,
    state: _State,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Appends samples to the files, and notes how far they are whenever they are safe on disk."""
    names = ("data", "source")[: 1 + samples.paired]
    files = [_opened_for_writing(folder / f"{name}.npy") for name in names]
    try:
        _go_back(files, state, folder)
        written, saved, stop = 0, time.monotonic(), False
        for block in samples.following(state.done, samples.common_transform()):
            for sample in block if codec is None else _encoded(block, codec, samples):
                if isinstance(sample, str):
                    state.lacking[state.done] = sample
                else:
                    _check(state, sample, samples)
                    for file, x in zip(files, sample, strict=True):
                        file.write(np.ascontiguousarray(x).data)
                        written += x.nbytes
                state.done += 1
                stop = stop or should_stop()
                if stop and state.done < len(samples) and (codec is None or state.done % AHEAD == 0):
                    _save(folder, files, state)
                    raise Interrupted(f"interrupted after {state.done:,} of {len(samples):,} samples; the same command goes on")
            on_progress(state.done, len(samples))
            if written >= SAVED or time.monotonic() - saved > PAUSE:
                _save(folder, files, state)
                written, saved = 0, time.monotonic()
        if state.shape is None or state.rows < LEAST:
            why = next(iter(state.lacking.values()), "")
            raise DataError(f"{samples.readers[0].name}: {state.rows} samples can be read, and a set needs {LEAST}{'; ' * bool(why)}{why}")
        for file in files:
            file.seek(0)
            file.write(header((state.rows, *state.shape), np.dtype(state.dtype)))
        _save(folder, files, state)
    finally:
        for file in files:
            file.close()


def _encoded(block: list[list[np.ndarray] | str], codec: Codec, samples: _Samples) -> list[list[np.ndarray] | str]:
    """Returns a block with the latents of its samples, encoded together: a block is the same however often one begins anew."""
    there = [sample for sample in block if not isinstance(sample, str)]
    if not there:
        return block
    if len({x.shape for sample in there for x in sample}) > 1:
        raise DataError(f"{samples.readers[0].name}: images must have one size to be encoded; make them alike with --size N")
    latents = [codec.encode(torch.as_tensor(np.stack(part))).cpu().numpy() for part in zip(*there, strict=True)]
    rows = (list(row) for row in zip(*latents, strict=True))
    return [sample if isinstance(sample, str) else next(rows) for sample in block]


def _go_back(files: Sequence[Any], state: _State, folder: Path) -> None:
    """Cuts files off behind the samples that were safe on disk."""
    end = HEADER + state.rows * state.row_bytes
    for file in files:
        if state.rows and os.fstat(file.fileno()).st_size < end:
            raise ArtifactError(f"a file of {folder} is shorter than {STATE} says; remove {folder} and begin anew")
        file.truncate(end)
        file.seek(end)


def _opened_for_writing(path: Path) -> Any:
    """Opens a file, made if it is not there; a link is not followed."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "r+b")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error.strerror}") from error


def _check(state: _State, sample: list[np.ndarray], samples: _Samples) -> None:
    """Refuses samples that are not like the first."""
    for x in sample:
        kind = x.shape, x.dtype.str
        if state.shape is None:
            if x.dtype.kind not in "fiub" or not x.shape:
                raise DataError(f"{samples.readers[0].name}: samples must be numbers of some shape, got {x.dtype} of shape {x.shape}")
            state.shape, state.dtype = kind
        if kind != (state.shape, state.dtype):
            raise DataError(
                f"{samples.readers[0].name}: sample {state.done} is {x.dtype} of shape {x.shape}, but those before are "
                f"{np.dtype(state.dtype)} of shape {state.shape}; make images alike with --size N and --channels 1 or 3"
            )


def _save(folder: Path, files: Sequence[Any], state: _State) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    state.write(folder)


def _finish(folder: Path, samples: _Samples, state: _State, how: Mapping[str, Any]) -> Prepared:
    """Measures and signs what was written; ``how`` says what it is made from."""
    kept = np.array([i for i in range(len(samples)) if i not in state.lacking])
    first = samples.readers[0]
    if first.labels is not None:
        labels = np.concatenate([np.asarray(part.labels) for part in samples.readers])[kept]
        checked_labels(first.name, labels, len(kept))
        _write_array(folder / "labels.npy", labels)
    if len(samples.readers) > 1:
        held_out = np.nonzero(kept >= len(first))[0]
        if not 0 < len(held_out) < len(kept):
            raise DataError(f"{samples.readers[1].name}: nothing of it can be read")
        _write_array(folder / "held_out.npy", held_out)
    else:
        held_out = split(len(kept))[1].numpy()
    data = NpyFile(folder / "data.npy")
    stats = stats_of(data, held_out)
    counts = np.bincount(labels).tolist() if first.labels is not None and labels.dtype.kind in "iub" else []
    digests = {path.name: digest_of(path) for path in sorted(folder.glob("*.npy"))}
    meta = Meta(
        n=len(data),
        shape=data.shape[1:],
        dtype=str(data.dtype),
        labels=first.labels is not None,
        pairs=samples.paired,
        held_out=len(samples.readers) > 1,
        classes=tuple(first.classes),
        counts=tuple(counts),
        stats=stats,
        digests=digests,
        **how,
        broken=tuple(state.lacking.values()),
    )
    write_json(folder / META, meta.model_dump())
    (folder / STATE).unlink()
    return Prepared(len(data), tuple(data.shape[1:]), str(data.dtype), list(state.lacking.values()))


def _write_array(path: Path, array: np.ndarray) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # np.save would add an ending to a path
            np.save(file, array)

    write_atomically(path, write)
