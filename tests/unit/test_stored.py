"""Data on disk: the same numbers as in memory, prepared from anything, whatever interrupts it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import matchlib
from matchlib.data import readers
from matchlib.data.dataset import Dataset
from matchlib.data.npy import NpyFile
from matchlib.data.prepare import prepare
from matchlib.data.readers import load_dataset
from matchlib.data.stored import META, stats_of
from matchlib.errors import ArtifactError, DataError, Interrupted, MatchlibError
from matchlib.plugins.tasks import MatchingTask
from matchlib.runs.api import start_run
from matchlib.runs.settings import resolve
from matchlib.training.ahead import Ahead
from matchlib.training.random import BatchSlice, Streams

CPU = torch.device("cpu")


def digits(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.argsort(y[:n], kind="stable")
    return x[:n][order].reshape(-1, 1, 8, 8).astype(np.uint8), y[:n][order]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folder_of(place: Path, x: np.ndarray, y: np.ndarray) -> Path:
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        (place / str(label)).mkdir(parents=True, exist_ok=True)
        (place / str(label) / f"{i:04}.png").write_bytes(png(image[0]))
    return place


def tar_of(place: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(place, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return place


def equal(one: Dataset, other: Dataset) -> bool:
    pairs = ((one.train, other.train), (one.held_out, other.held_out))
    parts = [(a, b) for x, y in pairs for a, b in zip(vars(x).values(), vars(y).values(), strict=True)]
    same = all((a is None and b is None) or torch.equal(a, b) for a, b in parts)
    return same and (one.shift, one.scale, one.classes, one.limits) == (other.shift, other.scale, other.classes, other.limits)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets everything that can stay on disk."""
    monkeypatch.setattr(readers, "IN_MEMORY", 0)


# -- one set in many forms -------------------------------------------------------------------------------------------------


def test_the_same_images_are_the_same_data_in_every_form(tmp_path: Path) -> None:
    x, y = digits()
    folder = folder_of(tmp_path / "folder", x, y)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    files = {
        f"{i:04}{suffix}": content
        for i, image in enumerate(x)
        for suffix, content in ((".png", png(image[0])), (".cls", str(y[i]).encode()))
    }
    tar_of(tmp_path / "d.tar", files)
    (tmp_path / "shards").mkdir()
    names = list(files)
    for k, part in enumerate((names[:50], names[50:])):
        tar_of(tmp_path / "shards" / f"{k}.tar", {name: files[name] for name in part})
    forms = [folder, tmp_path / "d.npz", tmp_path / "d.tar", tmp_path / "shards"]
    for form in forms[:]:
        prepare(form, tmp_path / f"prepared-{form.name}")
        forms.append(tmp_path / f"prepared-{form.name}")
    expected = load_dataset(forms[1])
    assert expected.classes == len(set(y.tolist()))
    for form in forms:
        assert equal(load_dataset(form), expected), form


def test_tables_of_datasets_are_the_same_data(tmp_path: Path) -> None:
    hf = pytest.importorskip("datasets")
    x, y = digits()
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(num_classes=10)})
    table = hf.Dataset.from_dict({"image": [{"bytes": png(image[0]), "path": None} for image in x], "label": y.tolist()}, features=features)
    table.save_to_disk(tmp_path / "arrow")
    table.to_parquet(tmp_path / "d.parquet")
    hf.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "splits")
    hf.Dataset.from_dict({"data": x[:, 0].tolist(), "label": y.tolist()}).save_to_disk(tmp_path / "lists")
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    expected = load_dataset(tmp_path / "d.npz")
    for form in ("arrow", "d.parquet", "splits"):
        assert equal(load_dataset(tmp_path / form), expected), form
        prepare(tmp_path / form, tmp_path / f"prepared-{form}")
        assert equal(load_dataset(tmp_path / f"prepared-{form}"), expected), form
    assert torch.allclose(load_dataset(tmp_path / "lists").train.data, expected.train.data[:, 0])
    with pytest.raises(DataError, match="no split 'train'"):
        hf.DatasetDict({"valid": table}).save_to_disk(tmp_path / "odd")
        load_dataset(tmp_path / "odd")
    paths = hf.Dataset.from_dict({"image": [{"bytes": None, "path": "/etc/passwd"}] * 5}, features=hf.Features({"image": hf.Image()}))
    paths.save_to_disk(tmp_path / "paths")
    with pytest.raises(DataError, match=r"path of a file elsewhere|is not a readable image"):
        load_dataset(tmp_path / "paths")


# -- on disk as in memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, ">i2"])
@pytest.mark.parametrize("far", [0.0, 2e4])
def test_samples_on_disk_are_those_in_memory(tmp_path: Path, dtype: str, far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).itemsize == 1 and far:
        pytest.skip("bytes are near zero")
    x = (rng.integers(0, 200, (90, 3, 4)) + far).astype(dtype)
    z, y = (rng.integers(0, 200, (90, 3, 4)) + far).astype(dtype), rng.integers(0, 3, 90)
    np.savez(tmp_path / "x.npz", data=x, source=z, labels=y)
    prepare(tmp_path / "x.npz", tmp_path / "set")
    memory = load_dataset(tmp_path / "x.npz")
    monkeypatch.setattr(readers, "IN_MEMORY", 0)
    disk = load_dataset(tmp_path / "set")
    assert disk.stored is not None and len(disk) == len(memory) == 72
    assert disk.shift == pytest.approx(memory.shift, rel=1e-14) and disk.scale == pytest.approx(memory.scale, rel=1e-12)
    disk, memory = disk.normalized_as(memory.shift + 1.0, 3.0), memory.normalized_as(memory.shift + 1.0, 3.0)
    index = torch.tensor([5, 0, 71, 5])
    for change in (lambda d: d, Dataset.balanced, Dataset.without_labels):
        one, other = change(disk).take(index), change(memory).take(index)
        assert torch.allclose(one.data, other.data, rtol=1e-6, atol=1e-6) and torch.allclose(one.source, other.source, rtol=1e-6, atol=1e-6)
        assert (one.label is None and other.label is None) or torch.equal(one.label, other.label)
    assert disk.moments(matchlib.couplings.independent()).data == pytest.approx(
        memory.moments(matchlib.couplings.independent()).data, rel=1e-5
    )


def test_large_npy_stays_on_disk_and_is_measured_once(tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.data import formats, stored

    monkeypatch.setattr(formats, "LARGE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    x = np.random.default_rng(0).standard_normal((50, 6)) * 3 + 1
    np.save(tmp_path / "x.npy", x)
    first = load_dataset(tmp_path / "x.npy")
    monkeypatch.setattr(stored, "stats_of", lambda *a: pytest.fail("measured again"))
    again = load_dataset(tmp_path / "x.npy")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "LARGE", 0)
    monkeypatch.setattr(readers, "IN_MEMORY", 0)
    np.save(tmp_path / "x.npy", x)  # the same, written again
    touched = load_dataset(tmp_path / "x.npy")
    assert touched.stored is not None and first.stored is not None and touched.stored.digest == first.stored.digest
    assert first.stored is not None and equal(first, again)
    assert torch.allclose(first.denormalize(first.take(torch.arange(40)).data.double()), torch.as_tensor(x)[first.stored.index], atol=1e-5)


def test_stats_are_those_of_the_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.data import stored

    monkeypatch.setattr(stored, "CHUNK", 200)
    x = np.random.default_rng(1).standard_normal((101, 7)) + 1e7
    np.save(tmp_path / "x.npy", x)
    held_out = np.arange(0, 101, 5)
    stats, rest = stats_of(NpyFile(tmp_path / "x.npy"), held_out), np.delete(x, held_out, 0)
    assert stats.shift == pytest.approx(rest.mean(), rel=1e-15) and stats.scale == pytest.approx(rest.std(), rel=1e-9)
    assert stats.limits == (x.min(), x.max()) and not stats.near


def test_a_part_in_memory_stands_for_data_on_disk(tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.data import dataset

    x, y = digits(200)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    monkeypatch.setattr(dataset, "PARTS", (256 * 20, 256 * 10))
    data = load_dataset(tmp_path / "set")
    assert (len(data), len(data.train.data), len(data.held_out.data)) == (160, 20, 10)
    assert data.train.label is not None and len(data.train.label.unique()) > 5  # of all classes, though the file is sorted
    assert data.labels is not None and torch.equal(torch.bincount(data.labels), torch.bincount(torch.as_tensor(y)[data.stored.index]))  # type: ignore[union-attr]
    assert "160 training" in data.summary() and "stay on disk" in data.summary()


# -- drawing ---------------------------------------------------------------------------------------------------------------


def test_reading_ahead_changes_nothing(tmp_path: Path, on_disk: None) -> None:
    x, y = digits(200)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    data, streams = load_dataset(tmp_path / "set"), Streams(3, CPU)
    ahead = Ahead(data, streams)
    for step in (0, 1, 2, 7, 8, 2):
        for stream in ("real", "prompt"):
            expected = data.draw(8, streams(stream, step))
            assert torch.equal(ahead.draw(8, stream, step).data, expected.data)
            for part in BatchSlice(0, 8, 8).parts(4):
                with part.drawing():
                    got = ahead.draw(4, stream, step)
                assert torch.equal(got.data, expected.data[part.begin : part.end])


def test_flip_turns_half_of_the_images_over_with_their_source() -> None:
    x = np.arange(24.0).reshape(4, 1, 2, 3)
    data = Dataset.from_arrays("x", np.repeat(x, 50, 0), source=np.repeat(x, 50, 0))
    from dataclasses import replace

    turning = replace(data, flip=True)
    chosen = turning.choose(2000, torch.Generator().manual_seed(0))
    batch = turning.read(chosen)
    assert chosen.flipped is not None and 0.45 < chosen.flipped.float().mean() < 0.55
    plain = data.take(chosen.index).data
    for flipped, expected in ((True, plain.flip(-1)), (False, plain)):
        assert torch.equal(batch.data[chosen.flipped == flipped], expected[chosen.flipped == flipped])
    assert batch.source is not None and torch.equal(batch.source, batch.data)


def test_flip_is_refused_for_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(MatchlibError, match=r"data.flip is for images, but samples of moons have shape \(2,\)"):
        matchlib.train("flow", "moons", steps=1, out=tmp_path / "run", settings={"data.flip": True})


SMALL = {
    "teacher.network": {"name": "mlp", "width": 16, "depth": 1}, "teacher.training.steps": 12, "teacher.training.batch_size": 16,
    "trainer.batch_size": 16, "trainer.checkpoint_every": 3, "teacher.training.checkpoint_every": 3, "evaluation.draws": 1,
    "evaluation.metrics": ("frechet-raw", "frechet"),
}  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {f"{kind}/{key}": x for kind in ("teacher", "student") for key, x in load_file(run / kind / "model.safetensors").items()}


@pytest.mark.runs
def test_runs_are_equal_whatever_form_the_data_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(300)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(folder_of(tmp_path / "folder", x, y), tmp_path / "set")
    found = []
    for name, in_memory in (("d.npz", 1 << 30), ("folder", 1 << 30), ("set", 1 << 30), ("set", 0)):
        monkeypatch.setattr(readers, "IN_MEMORY", in_memory)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{len(found)}"))
        run = tmp_path / f"run-{len(found)}"
        matchlib.distill("flow", tmp_path / name, steps=12, out=run, settings=SMALL)
        scores = json.loads((run / "evaluation.json").read_text())
        found.append((weights(run), {kind: scores[kind]["frechet"] for kind in ("student", "teacher", "held_out")}))
    for other, scores in found[1:]:
        assert all(torch.equal(found[0][0][key], other[key]) for key in found[0][0])
        assert scores == found[0][1]


@pytest.mark.runs
def test_a_run_on_disk_goes_on_bit_for_bit(tmp_path: Path, on_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(300)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    whole = tmp_path / "whole"
    for name in ("whole", "parts"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache-{name}"))
        settings = resolve(
            "distill", options={"data.name": str(tmp_path / "set"), "out": str(tmp_path / name), "trainer.steps": 12}, settings=SMALL
        )
        asked: list[int] = []

        def enough(name: str = name, asked: list[int] = asked) -> bool:
            asked.append(1)
            return name == "parts" and len(asked) == 20

        try:
            start_run(settings, should_stop=enough).execute()
        except Interrupted:
            matchlib.resume(tmp_path / name)
    expected, found = weights(whole), weights(tmp_path / "parts")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


# -- preparing -------------------------------------------------------------------------------------------------------------


def mixed(place: Path, n: int = 40) -> Path:
    """Images of many sizes and kinds, three of which are broken."""
    rng = np.random.default_rng(0)
    place.mkdir()
    for i in range(n):
        height, width = rng.integers(20, 60, 2)
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image = Image.fromarray(pixels[..., : (3, 4)[i % 2]])
        (image.convert("L") if i % 5 == 4 else image).save(place / f"{i:03}.png")
    for i in (3, 11, 30):
        (place / f"{i:03}.png").write_bytes((place / f"{i:03}.png").read_bytes()[:90])
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != "" and not path.name.startswith(".")}


def test_images_of_many_sizes_become_alike_and_broken_ones_are_listed(tmp_path: Path) -> None:
    place = mixed(tmp_path / "images")
    found = prepare(place, tmp_path / "set", size=16)
    assert (found.n, found.shape, found.dtype) == (37, (3, 16, 16), "uint8")
    assert len(found.broken) == 3 and "003.png is not a readable image" in found.broken[0]
    data = np.load(tmp_path / "set" / "data.npy")
    assert data.shape == (37, 3, 16, 16) and np.array_equal(data[4, 0], data[4, 1]) is False
    grey = next(k for k, i in enumerate(i for i in range(40) if i not in (3, 11, 30)) if i % 5 == 4)
    assert np.array_equal(data[grey, 0], data[grey, 1])  # a grey image among colours has three equal channels
    with pytest.raises(DataError, match=r"003.png is not a readable image"):
        prepare(place, tmp_path / "strict", size=16, strict=True)
    with pytest.raises(DataError, match=r"make images alike with --size N"):
        prepare(place, tmp_path / "sizes")


def test_a_square_is_cut_from_the_middle_and_scaled(tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200
    for i in range(5):
        Image.fromarray(pixels).save(place / f"{i}.png")
    prepare(place, tmp_path / "set", size=10)
    data = np.load(tmp_path / "set" / "data.npy")
    assert (data[..., 2:-2] == 200).all() and (data > 150).all()  # the filter reads a little of what was cut off


def test_deep_images_keep_their_depth(tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    for i in range(5):
        Image.fromarray(np.full((30, 40), 1000 * i + 300, np.uint16)).save(place / f"{i}.png")
    prepare(place, tmp_path / "set", size=8)
    data = np.load(tmp_path / "set" / "data.npy")
    assert data.dtype == np.uint16 and data[:, 0, 0, 0].tolist() == [300, 1300, 2300, 3300, 4300]


@pytest.mark.parametrize("after", [0, 1, 17, 36])
def test_an_interrupted_preparation_goes_on_to_the_same_bytes(tmp_path: Path, after: int) -> None:
    place = mixed(tmp_path / "images")
    prepare(place, tmp_path / "whole", size=16)
    asked: list[int] = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) > after

    with pytest.raises(Interrupted, match="the same command goes on"):
        prepare(place, tmp_path / "set", size=16, should_stop=enough)
    with (tmp_path / "set" / "data.npy").open("ab") as file:
        file.write(b"what was written before a kill and after the last state")
    with pytest.raises(ArtifactError, match="holds something else"):
        prepare(place, tmp_path / "set", size=8)
    prepare(place, tmp_path / "set", size=16)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_preparation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    place = mixed(tmp_path / "images", 400)
    prepare(place, tmp_path / "whole", size=48)
    code = "import sys; from matchlib.data import prepare as p; p.SAVED = 50000\np.prepare(sys.argv[1], sys.argv[2], size=48, workers=1)"
    rng, kills = np.random.default_rng(0), 0
    while kills < 5:
        process = subprocess.Popen([sys.executable, "-c", code, str(place), str(tmp_path / "set")], stderr=subprocess.PIPE)
        while not (tmp_path / "set" / "data.npy").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if (tmp_path / "set" / META).exists():
            break
    assert kills >= 3
    if not (tmp_path / "set" / META).exists():
        prepare(place, tmp_path / "set", size=48)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_held_out_data_may_be_given(tmp_path: Path) -> None:
    x, y = digits(60)
    np.savez(tmp_path / "a.npz", data=x[:40], labels=y[:40])
    np.savez(tmp_path / "b.npz", data=x[40:], labels=y[40:])
    prepare(tmp_path / "a.npz", tmp_path / "set", held_out=tmp_path / "b.npz")
    data = load_dataset(tmp_path / "set")
    assert torch.equal(data.denormalize(data.held_out.data).round(), torch.as_tensor(x[40:]).float())
    assert data.held_out.label is not None and data.held_out.label.tolist() == y[40:].tolist()
    one, other = folder_of(tmp_path / "one", x[:20], y[:20]), folder_of(tmp_path / "other", x[40:], y[40:])
    with pytest.raises(DataError, match="must have the same classes"):
        prepare(one, tmp_path / "classes", held_out=other)
    assert not (tmp_path / "classes").exists()


# -- what is refused -------------------------------------------------------------------------------------------------------


def test_tar_files_are_refused_that_name_places_outside(tmp_path: Path) -> None:
    image = png(np.zeros((4, 4), np.uint8))
    for name, message in (("../x.png", "a place outside"), ("/x.png", "a place outside"), ("a/../../x.png", "a place outside")):
        with pytest.raises(DataError, match=message):
            load_dataset(tar_of(tmp_path / "x.tar", {"0.png": image, name: image}))
    with pytest.raises(DataError, match=r"1 of 2 images have no .cls"):
        load_dataset(tar_of(tmp_path / "x.tar", {"0.png": image, "0.cls": b"1", "1.png": image}))
    with pytest.raises(DataError, match="must hold the number of a class"):
        load_dataset(tar_of(tmp_path / "x.tar", {"0.png": image, "0.cls": b"cat"}))
    with pytest.raises(DataError, match="holds no images"):
        load_dataset(tar_of(tmp_path / "x.tar", {"0.txt": b""}))
    (tmp_path / "y.tar").write_bytes(b"\x1f\x8b" + b"0" * 600)
    with pytest.raises(DataError, match="not a plain tar file"):
        load_dataset(tmp_path / "y.tar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "meta.json does not describe a prepared set: format"),
        ({"n": 7}, "not what meta.json says"),
        ({"shape": [1, 8, 9]}, "not what meta.json says"),
        ({"stats": {"shift": 0, "scale": 0, "limits": [0, 1], "near": True}}, "scale positive"),
        ({"labels": "perhaps"}, "meta.json does not describe a prepared set: labels"),
        ({"more": 1}, "meta.json does not describe a prepared set: more"),
        ({"pairs": True}, "source.npy cannot be read: No such file"),
    ],
)
def test_prepared_sets_that_do_not_fit_their_meta_are_refused(tmp_path: Path, on_disk: None, change: dict, message: str) -> None:
    x, y = digits(30)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    meta = json.loads((tmp_path / "set" / META).read_text())
    (tmp_path / "set" / META).write_text(json.dumps(meta | change))
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / "set")


def test_a_file_that_was_cut_short_is_refused_when_it_is_opened_and_when_it_is_read(tmp_path: Path, on_disk: None) -> None:
    x, y = digits(30)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    data = load_dataset(tmp_path / "set")
    os.truncate(tmp_path / "set" / "data.npy", 500)
    with pytest.raises(DataError, match=r"data.npy was cut short while it was read"):
        data.take(torch.arange(20))
    with pytest.raises(DataError, match=r"data.npy is cut short"):
        load_dataset(tmp_path / "set")


@pytest.mark.parametrize(
    "array", [np.array([object()] * 5), np.asfortranarray(np.zeros((5, 3))), np.array(["x"] * 5), np.zeros((0, 3)), np.zeros(())]
)
def test_npy_files_that_hold_no_rows_of_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"must hold rows of numbers in C order|not a readable npy file"):
        NpyFile(tmp_path / "x.npy")


def test_a_folder_that_holds_something_else_is_not_written_into(tmp_path: Path) -> None:
    x, y = digits(30)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.npy").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else already"):
        prepare(tmp_path / "d.npz", tmp_path / "mine")
    assert (tmp_path / "mine" / "data.npy").read_text() == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["data.npy"]
    with pytest.raises(ArtifactError, match="name a new folder"):
        prepare(tmp_path / "d.npz", "")
    with pytest.raises(DataError, match="cannot be prepared: give a folder of images"):
        prepare("digits", tmp_path / "set")


def test_the_task_reads_what_the_data_set_draws(tmp_path: Path, on_disk: None) -> None:
    from matchlib.training.task import Learner

    x, y = digits(100)
    np.savez(tmp_path / "d.npz", data=x, labels=y)
    prepare(tmp_path / "d.npz", tmp_path / "set")
    data, streams = load_dataset(tmp_path / "set"), Streams(0, CPU)
    model = matchlib.families.flow().model(paired=False)
    task = MatchingTask(Learner(torch.nn.Linear(1, 1)), model, data, streams, batch_size=8)
    for step in range(3):
        assert torch.equal(task._batch(8, step).data, data.draw(8, streams("real", step)).data)


def test_tables_keep_the_types_of_their_arrays(tmp_path: Path) -> None:
    """Bytes stay bytes, with the limits of images, and float64 is not rounded."""
    hf = pytest.importorskip("datasets")
    images = np.arange(20 * 16, dtype=np.uint8).reshape(20, 1, 4, 4) % 200 + 10
    table = hf.Dataset.from_dict({"data": list(images)}, features=hf.Features({"data": hf.Array3D((1, 4, 4), "uint8")}))
    table.to_parquet(tmp_path / "images.parquet")
    assert load_dataset(str(tmp_path / "images.parquet")).limits == (0.0, 255.0)
    far = 1e8 + np.random.default_rng(0).normal(size=(50, 2))
    hf.Dataset.from_dict({"data": far.tolist()}).save_to_disk(tmp_path / "far")
    read = load_dataset(str(tmp_path / "far"))
    assert read.denormalize(read.train.data).unique().numel() == read.train.data.numel()
    hf.Dataset.from_dict({"data": ["a", "b"] * 10}).save_to_disk(tmp_path / "words")
    with pytest.raises(DataError, match="numbers are wanted"):
        load_dataset(str(tmp_path / "words"))
