"""Data by name and path: arrays, folders of images, pairs, and one line for whatever cannot be read."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import DataError, UnknownNameError

RNG = np.random.default_rng(0)


def _save(folder: Path, pixels: np.ndarray, mode: str | None = None, suffix: str = ".png", count: int = 5) -> None:
    """Writes images that are ``pixels`` plus 0, 1, 2 ... in the first entry."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        changed = pixels.copy()
        changed.reshape(-1)[0] += i
        Image.fromarray(changed, mode).save(folder / f"{i}{suffix}")


def _values(dataset: Dataset) -> torch.Tensor:
    return dataset.denormalize(torch.cat([dataset.train.data, dataset.held_out.data]))


def test_load_dataset_reads_npz_npy_and_folders(tmp_path: Path) -> None:
    data = RNG.integers(0, 255, (20, 3, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", data=data, labels=np.arange(20) % 4)
    np.save(tmp_path / "a.npy", data)
    assert load_dataset(str(tmp_path / "a.npz")).classes == 4
    alone = load_dataset(tmp_path / "a.npy")
    assert alone.classes is None
    assert torch.equal(alone.train.data, load_dataset(tmp_path / "a.npz").train.data)
    for i in range(8):
        folder = tmp_path / "images" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    images = load_dataset(str(tmp_path / "images"))
    assert images.shape == (3, 6, 5)
    assert images.classes == 2
    assert load_dataset(images) is images


# -- images -----------------------------------------------------------------------------------------------------------------


def test_load_dataset_keeps_grey_images_of_16_bits(tmp_path: Path) -> None:
    """A ramp to 65,535 stays a ramp; it once became nearly white."""
    ramp = np.linspace(0, 65000, 64).reshape(8, 8).astype(np.uint16)
    _save(tmp_path / "png", ramp)
    _save(tmp_path / "tif", ramp, suffix=".tif")
    for name in ("png", "tif"):
        values = _values(load_dataset(tmp_path / name))
        assert values.max().item() == pytest.approx(65000, rel=1e-5)
        assert torch.allclose(values[0, 0, 1:], torch.tensor(ramp[1:].astype(np.float32)), atol=0.05)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_load_dataset_keeps_grey_images_of_32_bits(tmp_path: Path, kind: type) -> None:
    ramp = np.linspace(-300, 70000, 64).reshape(8, 8).astype(kind)
    _save(tmp_path, ramp, suffix=".tif")
    assert load_dataset(tmp_path).limits == pytest.approx((-300.0, 70000.0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_load_dataset_lays_transparent_images_over_white(tmp_path: Path, mode: str) -> None:
    """What is seen through is white, half of it is half white, and grey stays grey."""
    for i in range(5):
        image = Image.new("RGBA", (3, 1), (10 * i, 10 * i, 10 * i, 255))
        image.putpixel((1, 0), (0, 0, 0, 0))
        if mode == "P":
            image = Image.new("P", (3, 1), 0)
            image.putpalette([0, 0, 0, 10 * i, 10 * i, 10 * i])
            image.putdata([1, 0, 1])
            image.info["transparency"] = 0
        image = image if mode == "P" else image.convert(mode)
        image.save(tmp_path / f"{i}.png")
    dataset = load_dataset(tmp_path)
    assert dataset.shape == ((1 if mode == "LA" else 3), 1, 3)
    values = _values(dataset)
    assert torch.allclose(values[:, :, 0, 1], torch.tensor(255.0), atol=1e-3)
    assert sorted(values[:, 0, 0, 0].round().tolist()) == [0, 10, 20, 30, 40]


def test_load_dataset_reads_opaque_images_as_before(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 250, (4, 4, 3), dtype=np.uint8)
    _save(tmp_path / "rgb", pixels)
    _save(tmp_path / "rgba", np.concatenate([pixels, np.full((4, 4, 1), 255, np.uint8)], 2))
    assert torch.equal(load_dataset(tmp_path / "rgb").train.data, load_dataset(tmp_path / "rgba").train.data)


def test_load_dataset_refuses_images_of_different_depth(tmp_path: Path) -> None:
    _save(tmp_path, np.full((4, 4), 7, np.uint8))
    Image.fromarray(np.full((4, 4), 700, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="one size, number of channels and depth"):
        load_dataset(tmp_path)


def _png(width: int, height: int) -> bytes:
    """The smallest file that claims to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not a readable image"),
        (b"", "not a readable image"),
        (_png(12_000, 9_000), "decompression bomb"),
        (_png(60_000, 60_000), "decompression bomb"),
        (_png(8, 8), "not a readable image"),
    ],
    ids=["postscript", "empty", "large", "larger", "cut short"],
)
def test_load_dataset_refuses_files_that_are_no_images(tmp_path: Path, content: bytes, message: str) -> None:
    """In one line; no decoder runs but those of the formats that are named (a PostScript file once reached Ghostscript)."""
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=message) as refusal:
        load_dataset(tmp_path)
    assert "\n" not in str(refusal.value)


# -- arrays -----------------------------------------------------------------------------------------------------------------


def _claiming(shape: tuple[int, ...]) -> bytes:
    """An npz whose array claims a shape and holds nothing."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.npy", array.getvalue())
    return archive.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00", b"\x80\x04]\x94.", _claiming((1 << 20, 1 << 20, 14))],
    ids=["empty", "text", "cut zip", "cut npy", "pickle", "14 TiB"],
)
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_load_dataset_refuses_damaged_arrays_in_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable file of plain arrays") as refusal:
        load_dataset(path)
    assert "\n" not in str(refusal.value)
    assert "allow_pickle" not in str(refusal.value)


def test_load_dataset_does_not_unpickle(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", data=np.array([{"a": 1}] * 9, dtype=object))
    with pytest.raises(DataError, match=r"plain arrays .* it holds Python objects"):
        load_dataset(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.full((9, 2), np.nan)}, "NaN"),
        ({"data": np.ones((9, 2))}, "constant"),
        ({"data": np.arange(9.0)}, "shape"),
        ({"data": RNG.random((9, 2)), "labels": -np.ones(9, int)}, "labels"),
        ({"data": RNG.random((9, 2)), "labels": np.ones(8, int)}, "8 labels"),
        ({"data": RNG.random((9, 2)), "source": RNG.random((9, 3))}, "'source'"),
        ({"data": RNG.random((3, 2))}, "n >= 4"),
        ({"data": np.array([["a", "b"]] * 9)}, "numbers"),
        ({"x": np.ones((9, 2))}, "must hold an array 'data' .* got x"),
        ({}, "got nothing"),
    ],
)
def test_load_dataset_refuses_unusable_arrays_by_name(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "bad.npz"))


# -- names ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "did you mean 'digits'"),
        ("x" * 5000, "is no registered set"),
        ("pairs:" + "x" * 5000, "holds no images"),
        ("a\0b", "is no registered set"),
        ("no/such.npz", "there is no such file: no/such.npz"),
        ("~nobody-of-this-name/x", "is no registered set"),
        ("", "got an empty name"),
        (nn.Linear(2, 2), r"got the network Linear; a network is a teacher by Teacher.from_callable"),
        (np.ones((9, 2)), r"got ndarray of shape \(9, 2\); arrays become one by Dataset.from_arrays"),
        (torch.ones(9, 2), r"got Tensor of shape \(9, 2\); arrays become one by Dataset.from_arrays"),
        ([1, 2], r"got list; arrays become one by Dataset.from_arrays"),
    ],
)
def test_load_dataset_says_what_is_no_data_set(name: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        load_dataset(name)  # type: ignore[arg-type]
    assert len(str(refusal.value)) < 700


def test_load_dataset_takes_a_folder_with_the_name_of_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        load_dataset(str(tmp_path / "folder.npz"))
    with pytest.raises(UnknownNameError, match="has no settings"):
        load_dataset(str(tmp_path / "folder.npz"), {"noise": 1.0})


# -- pairs ------------------------------------------------------------------------------------------------------------------


def _images(folder: Path, names: list[str], value: int) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value + i, np.uint8)).save(path)


def test_load_dataset_joins_a_folder_of_pairs_by_name(tmp_path: Path, cli: Callable, small: list[str]) -> None:
    names = [f"{kind}/{i}" for kind in ("cat", "dog") for i in range(6)]
    _images(tmp_path / "data", [f"{name}.png" for name in names], 100)
    _images(tmp_path / "source", [f"{name}.bmp" for name in names], 0)
    dataset = load_dataset(f"pairs:{tmp_path}")
    assert dataset.paired
    assert dataset.classes == 2
    assert torch.allclose(dataset.train.data - dataset.train.source, torch.tensor(100 / dataset.scale), atol=1e-4)
    code, _, err = cli("distill", "--teacher", "bridge", "--data", f"pairs:{tmp_path}", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    (tmp_path / "data" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match="1 have none, such as cat/0"):
        load_dataset(f"pairs:{tmp_path}")


@pytest.mark.parametrize(
    "stream", [iter([np.zeros(3)]), (x for x in [np.zeros(3)]), map(float, "12")], ids=["iterator", "generator", "map"]
)
def test_iterators_are_refused_with_the_command_that_gives_them_an_index(stream: object) -> None:
    with pytest.raises(DataError, match=r"has no index.*matchlib prepare FILE.npy --out FOLDER"):
        load_dataset(stream)  # type: ignore[arg-type]


def test_load_dataset_turns_images_as_their_cameras_say(tmp_path: Path) -> None:
    """With a size and without one."""
    stripes = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[:, None], 16, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    (tmp_path / "ims").mkdir()
    for i in range(6):
        Image.fromarray(stripes // (i + 1)).save(tmp_path / "ims" / f"{i}.png", exif=exif)
    data = load_dataset(tmp_path / "ims")
    image = data.denormalize(data.train.data)[0, 0]
    assert float(image.std(0).max()) < 1e-3 < float(image.std(1).min())


def test_load_dataset_follows_links_and_leaves_hidden_folders_out(tmp_path: Path) -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    for name in ("images/a", "images/b", "elsewhere", "images/.ipynb_checkpoints"):
        _save(tmp_path / name, pixels)
    (tmp_path / "images" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a" / "round").symlink_to(tmp_path / "images")
    dataset = load_dataset(tmp_path / "images")
    assert dataset.classes == 3
    assert len(dataset.train.data) + len(dataset.held_out.data) == 15


def test_load_dataset_refuses_folders_of_which_it_would_read_a_part(tmp_path: Path) -> None:
    _save(tmp_path / "mixed", np.zeros((4, 4), np.uint8))
    (tmp_path / "mixed" / "backup.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds \.tar and images files"):
        load_dataset(tmp_path / "mixed")
    (tmp_path / "splits").mkdir()
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        (tmp_path / "splits" / name).write_bytes(b"")
    with pytest.raises(DataError, match="splits test, train, which would be mixed"):
        load_dataset(tmp_path / "splits")


def test_load_dataset_refuses_folders_of_splits_but_not_classes_of_their_names(tmp_path: Path) -> None:
    for folder in ("data/train/cats", "data/test/cats", "vehicles/train", "vehicles/bus"):
        _images(tmp_path / folder, ["0.png", "1.png", "2.png", "3.png"], 3)
    with pytest.raises(DataError, match=r"splits test, train, which would be mixed; .*prepare .*/train --held-out .*/test"):
        load_dataset(tmp_path / "data")
    assert load_dataset(tmp_path / "data" / "train").labels is None
    assert load_dataset(tmp_path / "vehicles").classes == 2


def test_load_dataset_names_images_of_a_tar_file_that_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """WebDataset takes what follows the first dot for the kind of file."""
    _images(tmp_path / "images", ["0.png", "1.png", "2.png", "3.png", "img.4.png", "img.5.png"], 3)
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for file in sorted((tmp_path / "images").iterdir()):
            shard.add(file, file.name)
    assert len(load_dataset(tmp_path / "shard.tar")) == 3  # and one is held out
    assert "2 images are left out whose names have more than one dot, such as img.4.png" in caplog.text


def test_pairs_of_images_have_one_partner(tmp_path: Path) -> None:
    for part in ("data", "source"):
        _save(tmp_path / part, np.arange(16, dtype=np.uint8).reshape(4, 4))
        Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / part / "0.jpg")
    with pytest.raises(DataError, match="0 is there more than once"):
        load_dataset(f"pairs:{tmp_path}")


def test_images_of_another_layout_are_named(caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 12, 12, 3), dtype=np.uint8)
    for array, said in ((images, "data.transpose(0, 3, 1, 2)"), (images[..., 0], "data[:, None]"), (images.transpose(0, 3, 1, 2), "")):
        caplog.clear()
        Dataset.from_arrays("mine", array)
        assert said in caplog.text
        assert bool(caplog.text) == bool(said)
