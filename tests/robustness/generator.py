"""Wrong inputs by kind: an endless sequence for each, the same for the same seed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel

from matchlib.data import readers
from matchlib.data.prepare import prepare as prepare_data
from matchlib.errors import Interrupted
from matchlib.io import read_json, write_json
from matchlib.registry import ALL
from matchlib.runs.settings import OpenSettings, RunSettings, _adapters, _places
from tests.fixtures.students import vae
from tests.robustness.harness import Case
from tests.robustness.values import OBJECTS, PLAIN, TEXTS, damaged, mutated

WHOLE = 0.04  # of the accepted settings are trained
TINY = (
    "teacher.network.width=8", "teacher.network.depth=1", "teacher.training.steps=2", "teacher.training.batch_size=8",
    "trainer.steps=2", "trainer.batch_size=8", "evaluation.draws=1", "evaluation.metrics=[sliced-wasserstein]",
)  # fmt: skip
SMALL = tuple(part for item in TINY for part in ("--set", item))


def template(folder: Path) -> None:
    """Makes the working folder that wrong inputs are tried in: data, a finished run and one that was cut short."""
    from matchlib_cli.app import main

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    x = rng.standard_normal((24, 2))
    np.savez(folder / "data.npz", data=x, labels=np.arange(24) % 2)
    np.savez(folder / "pairs.npz", data=x, source=x + 1)
    np.save(folder / "data.npy", x)
    (folder / "notes.txt").write_text("mine")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"data": {"name": "data.npz"}, "trainer": {"steps": 2}}))
    for name in ("images/a", "images/b", "two/data", "two/source"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(folder / name / f"{i}.png")
    with tarfile.open(folder / "shards.tar", "w") as archive:
        for i in range(6):
            for name, content in ((f"{i}.png", (folder / f"images/a/{i % 4}.png").read_bytes()), (f"{i}.cls", b"0" if i % 2 else b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    prepare_data(folder / "images", folder / "set")
    vae().save_pretrained(folder / "vae")
    prepare_data(folder / "images", folder / "latents", encode=f"vae:{folder / 'vae'}")
    meta = read_json(folder / "latents" / "meta.json")
    write_json(folder / "latents" / "meta.json", {**meta, "codec": {**meta["codec"], "path": "../vae"}})  # so that copies have their own
    before = Path.cwd()
    os.chdir(folder)
    try:
        main(["distill", "--data", "data.npz", "--out", "run", *SMALL, "--set", "trainer.checkpoint_every=1"])
    except SystemExit as ended:
        assert not ended.code, "the template's run failed"
    finally:
        os.chdir(before)
    (folder / "run" / "notes.txt").write_text("mine")


def _cut(folder: Path) -> None:
    """Makes of the finished run one that is to be resumed with its student."""
    import shutil

    (folder / "run" / "evaluation.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "run" / "student", ignore_errors=True)


# -- settings --------------------------------------------------------------------------------------------------------------


def setting_paths() -> list[str]:
    """Every setting of the tree, with those of the plugins that it names."""
    paths: list[str] = []

    def walk(kind: type[BaseModel], path: tuple[str, ...]) -> None:
        for key, field in kind.model_fields.items():
            here = (*path, key)
            paths.append(".".join(here))
            inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(a, type)]
            for one in inner:
                if issubclass(one, BaseModel):
                    walk(one, here)
                if issubclass(one, OpenSettings):
                    paths.extend(f"{'.'.join(here)}.{name}" for plugin in ALL[one.group] for name in _adapters(one.group, plugin))
            place = _places().get(here)
            if place is not None:
                for plugin in ALL[place.group]:
                    paths.extend(f"{'.'.join(here)}.{name}" for name in _adapters(place.group, plugin))

    walk(RunSettings, ())
    return list(dict.fromkeys(paths))


def _near(path: str, rng: random.Random) -> str:
    """A path, now and then spelled wrong."""
    return rng.choice(
        [path] * 9 + [f"{path}x", path.upper(), f".{path}", f"{path}.", f"{path}.x", path.replace(".", "..", 1), path[:-1], ""]
    )


def _command(rng: random.Random) -> tuple[str, ...]:
    return rng.choice((("distill",), ("distill",), ("train",)))


def by_set(rng: random.Random) -> Iterator[Case]:
    """Settings through ``--set``."""
    paths = setting_paths()
    while True:
        path, text = _near(rng.choice(paths), rng), rng.choice(TEXTS)
        whole = rng.random() < WHOLE
        argv = (*_command(rng), "--data", "data.npz", "--out", "out", *SMALL, "--set", f"{path}={text}")
        yield Case("set", f"{path}={text[:60]!r}", argv, whole=whole)


def by_config(rng: random.Random) -> Iterator[Case]:
    """Settings through ``--config``: a file with wrong values, or a damaged one."""
    paths = setting_paths()
    while True:
        path = rng.choice(paths)
        if rng.random() < 0.7:
            tree: Any = rng.choice([*PLAIN])
            for part in reversed(path.split(".")):
                tree = {rng.choice([part] * 30 + [1, None, True]): tree}  # type: ignore[list-item]
            content, name = yaml.safe_dump(tree).encode("utf-8", "replace"), f"{path} {str(tree)[-60:]!r}"
        else:
            text = f"{path.split('.')[0]}: {rng.choice(TEXTS)}\n"
            content, name = damaged(text.encode(), rng)
        argv = (*_command(rng), "--out", "out", *SMALL, "--config", "recipe.yaml")
        yield Case("config", name, argv, _writes("recipe.yaml", content))


def by_python(rng: random.Random) -> Iterator[Case]:
    """Settings and arguments through the Python API."""
    import matchlib

    paths = setting_paths()
    small = {item.partition("=")[0]: yaml.safe_load(item.partition("=")[2]) for item in TINY}
    keywords = ("data", "student", "loss", "recipe", "steps", "time", "out", "seed", "device", "config", "settings", "teacher")
    while True:
        value = rng.choice(OBJECTS)
        name = f"{type(value).__name__} {_shown(value)}"
        if rng.random() < 0.6:
            path = rng.choice([_near(rng.choice(paths), rng)] * 9 + [None, 1, ("a",)])  # type: ignore[list-item]
            given: dict[str, Any] = {"settings": {**small, path: value}}
            name = f"settings {path}: {name}"
        else:
            keyword = rng.choice(keywords)
            given = {"settings": small, keyword: value}
            name = f"{keyword}: {name}"
        call: Callable[..., Any] = matchlib.distill if rng.random() < 0.8 or "student" in given or "loss" in given else matchlib.train
        if call is matchlib.train:
            given.pop("teacher", None)
        options = {"data": "data.npz", "out": "out", "on_progress": lambda row: None, **given}
        yield Case("python", name, call=lambda call=call, options=options: call(**options))  # type: ignore[misc]


def _shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except Exception:
        return "?"


# -- files of a run --------------------------------------------------------------------------------------------------------

FILES = {  # of a run, and commands that read them
    "config.yaml": ("evaluate", "resume-cut", "report", "watch", "resume", "plan"),
    "teacher/config.json": ("sample-teacher", "evaluate", "resume-cut", "teacher", "doctor", "report"),
    "student/config.json": ("sample", "evaluate", "student", "report"),
    "metrics.jsonl": ("resume-cut", "report", "watch"),
    "evaluation.json": ("compare", "report", "watch"),
    "report.safetensors": ("report", "resume-cut"),
    "data.json": ("resume-cut",),
    "teacher/model.safetensors": ("sample-teacher", "resume-cut", "teacher"),
    "student/model.safetensors": ("sample", "student"),
    "checkpoints/*": ("resume-cut", "checkpoint"),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "evaluate": ("evaluate", "run", "--draws", "1"),
    "resume": ("resume", "run"),
    "resume-cut": ("resume", "run"),
    "checkpoint": ("resume", "run", "--checkpoint", "run/checkpoints/student-00000002.safetensors"),
    "report": ("report", "run"),
    "watch": ("watch", "run", "--once"),
    "compare": ("compare", "run", "run"),
    "plan": ("plan", "run/config.yaml"),
    "sample": ("sample", "run", "-n", "2", "--out", "out.npz"),
    "sample-teacher": ("sample", "run", "-n", "2", "--of", "teacher", "--out", "out.npz"),
    "teacher": ("distill", "--teacher", "run", "--data", "data.npz", "--out", "out", *SMALL[4:]),
    "student": ("distill", "--student", "run", "--data", "data.npz", "--out", "out", *SMALL[4:]),
    "doctor": ("doctor", "run"),
}
CUT = ("resume-cut", "checkpoint")
HEAVY = ("evaluate", "plan", "doctor")  # take a second or more where they are accepted


def by_run_file(rng: random.Random) -> Iterator[Case]:
    """Files of a run with a wrong key, damaged, missing or of another kind."""
    while True:
        file = rng.choice(list(FILES))
        command = rng.choice([name for name in FILES[file] if name not in HEAVY or rng.random() < 0.25] or ["report"])
        seed = rng.randrange(2**32)
        name = f"{command}: {file} {seed}"
        whole = command == "evaluate" or (command in CUT and rng.random() < 0.1)
        yield Case("run file", name, COMMANDS[command], _run_file(file, command, seed), whole=whole)


def _run_file(file: str, command: str, seed: int) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        rng = random.Random(seed)
        if command in CUT:
            _cut(folder)
        paths = sorted((folder / "run").glob(file))
        if not paths:
            return
        path = rng.choice(paths)
        how = rng.random()
        if how < 0.7:
            path.write_bytes(_mutation(path, rng))
        elif how < 0.85:
            path.write_bytes(damaged(path.read_bytes(), rng)[0])
        else:
            _otherwise(path, rng)

    return prepare


def _mutation(path: Path, rng: random.Random) -> bytes:
    """The bytes of a file of a run, with one key wrong."""
    content = path.read_bytes()
    if path.suffix == ".yaml":
        return yaml.safe_dump(mutated(yaml.safe_load(content), rng)[0]).encode("utf-8", "replace")
    if path.suffix == ".json":
        return json.dumps(mutated(json.loads(content), rng)[0]).encode()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        i = rng.randrange(len(rows))
        rows[i] = mutated(rows[i], rng)[0] if rng.random() < 0.8 else rng.choice(PLAIN)
        return "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    note = header.get("__metadata__", {})
    for key in ("history", "versions", "about"):  # JSON in JSON
        if key in note and rng.random() < 0.4:
            note[key] = json.dumps(mutated(json.loads(note[key]), rng)[0])
            note.pop("blake2b", None)
            break
    else:
        header, _ = mutated(header, rng)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict) and rng.random() < 0.7:
        header["__metadata__"].pop("blake2b", None)  # what has no checksum is looked at for itself
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _otherwise(path: Path, rng: random.Random) -> None:
    how = rng.choice(("missing", "folder", "link to itself", "link out", "broken link", "unreadable", "pipe"))
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "link out":
        path.symlink_to(path.parents[2] / "notes.txt" if path.parent.name != "run" else path.parents[1] / "notes.txt")
    elif how == "broken link":
        path.symlink_to("nowhere")
    elif how == "unreadable":
        path.write_bytes(content)
        path.chmod(0)
    elif how == "pipe":
        os.mkfifo(path)


# -- data ------------------------------------------------------------------------------------------------------------------

DTYPES = ("f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u8", "?", "c8", "O", "U3", "S3", "M8[s]", "m8[s]", "V4")
SHAPES = ((), (0,), (5,), (0, 2), (5, 0), (1, 2), (4, 2), (5, 1), (24, 2), (24, 1, 4, 4), (6, 2, 2, 2, 2), (3, 2), (24, 3, 1, 1))
NAMES = (
    "a.npz",
    " .npz",
    "-x.npz",
    "a:b.npz",
    "ü.npz",
    "a\nb.npz",
    "{}.npz",
    "%s.npz",
    "pairs:a.npz",
    "a" * 240 + ".npz",
    "[red].npz",
    "$(x).npz",
)


def _array(rng: random.Random) -> np.ndarray:
    dtype, shape = rng.choice(DTYPES), rng.choice(SHAPES)
    numbers = np.random.default_rng(rng.randrange(2**32)).standard_normal(shape) * rng.choice((1, 1, 1e-40, 1e7, 1e30, 1e200, 0))
    numbers = numbers + rng.choice((0, 0, 1e7, 1e10))
    if dtype == "O":
        return np.full(shape, None, object)
    try:
        array = numbers.astype(dtype)
    except (TypeError, ValueError):
        array = np.zeros(shape, dtype)
    if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e308))
    return array


def _bomb(path: Path) -> None:
    """An archive whose member claims to be huge."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**37, 16)})
        archive.writestr("data.npy", header.getvalue() + bytes(10_000))


def _arrays(path: Path, rng: random.Random) -> None:
    how = rng.choice(("arrays", "arrays", "arrays", "labels", "labels", "source", "damaged", "npy", "bomb", "text", "odd header"))
    x = np.random.default_rng(0).standard_normal((24, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "arrays":
            np.savez(path, **{rng.choice(["data"] * 6 + ["x", ""]): _array(rng)})
        elif how == "labels":
            labels = rng.choice(
                (_array(rng), np.full(24, 10**9), np.full(24, -1), np.arange(24) * 1000, np.full(24, np.nan), np.zeros((24, 3)))
            )
            np.savez(path, data=x, labels=labels)
        elif how == "source":
            np.savez(path, data=x, source=_array(rng))
        elif how == "npy":
            with path.open("wb") as file:
                np.save(file, _array(rng))
        elif how == "bomb":
            _bomb(path)
        elif how == "text":
            path.write_text(rng.choice(TEXTS).replace("\u0000", "0"))
        elif how == "odd header":
            shape = rng.choice(((2**44, 2), (-1, 2), (24, 2**62), ("a",), 5))
            text = repr({"descr": rng.choice(("<f8", "|O", "<x9", 5)), "fortran_order": False, "shape": shape}).ljust(117) + "\n"
            path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + x.tobytes())
        else:
            with path.open("wb") as file:
                np.savez(file, data=x)
            path.write_bytes(damaged(path.read_bytes(), rng)[0])


def by_arrays(rng: random.Random) -> Iterator[Case]:
    """Files of arrays as data."""
    while True:
        seed, name = rng.randrange(2**32), rng.choice(["x.npz"] * 6 + ["x.npy"] * 2 + list(NAMES))
        command = rng.choice([("distill", "--out", "out", *SMALL)] * 4 + [("train", "--out", "out", *SMALL)])
        whole = rng.random() < WHOLE

        def prepare(folder: Path, seed: int = seed, name: str = name) -> None:
            _arrays(folder / name, random.Random(seed))

        yield Case("arrays", f"{name[:30]!r} {seed}", (*command, "--data", name), prepare, whole=whole)


MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV", "LAB")
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "webp": "WEBP",
    "PNG": "PNG",
    "jpeg": "TIFF",
    "tiff": "PNG",
}


@cache
def _large() -> bytes:
    """A small file of a picture that is large."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def _picture(mode: str, size: tuple[int, int], rng: random.Random) -> Image.Image:
    noise = Image.effect_noise(size, 80) if rng.random() < 0.8 else Image.new("L", size)
    try:
        return noise.convert(mode)
    except ValueError:
        return Image.new(mode, size, 1)


def _folder(place: Path, rng: random.Random) -> None:
    """A folder of images of which some are wrong."""
    place.mkdir(exist_ok=True)
    size = rng.choice(((4, 4), (4, 4), (5, 3), (1, 1), (40, 1)))
    mode = rng.choice(MODES)
    for i in range(rng.choice((0, 1, 3, 4, 6))):
        suffix = rng.choice(list(FORMATS)) if rng.random() < 0.5 else "png"
        image = Image.new(
            mode if rng.random() < 0.8 else rng.choice(MODES), size if rng.random() < 0.8 else (3, 3), rng.choice((0, 1, None))
        )
        try:
            image.save(place / f"{i}.{suffix}", FORMATS[suffix])
        except (OSError, ValueError, KeyError):
            (place / f"{i}.{suffix}").write_bytes(rng.choice((b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")))
    how = rng.choice(("", "damaged", "bomb", "text", "link", "folder", "odd name", "header", "unreadable"))
    files = sorted(place.glob("*.*"))
    if how == "damaged" and files:
        path = rng.choice(files)
        path.write_bytes(damaged(path.read_bytes(), rng)[0])
    elif how == "bomb":
        (place / "b.png").write_bytes(_large())
    elif how == "text":
        (place / "t.png").write_text("text")
    elif how == "link":
        (place / "l.png").symlink_to("l.png")
    elif how == "folder":
        (place / "f.png").mkdir()
    elif how == "odd name" and files:
        files[0].rename(place / rng.choice(("a\nb.png", "é.png", "%s.png", "-.png", "[b].png")))
    elif how == "header" and files:
        content = bytearray(files[0].read_bytes())
        content[16:24] = struct.pack(">II", *rng.choice(((0, 0), (2**31 - 1, 1), (70_000, 70_000), (5, 5))))
        files[0].write_bytes(content)
    elif how == "unreadable" and files:
        files[0].chmod(0)


def by_images(rng: random.Random) -> Iterator[Case]:
    """Folders of images as data, and folders of pairs."""
    while True:
        seed, pairs = rng.randrange(2**32), rng.random() < 0.3

        def prepare(folder: Path, seed: int = seed, pairs: bool = pairs) -> None:
            generator = random.Random(seed)
            (folder / "in").mkdir()
            for name in ("data", "source") if pairs else rng_names(generator):
                _folder(folder / "in" / name, generator)

        data = "pairs:in" if pairs else "in"
        yield Case("images", f"{data} {seed}", ("distill", "--out", "out", *SMALL, "--data", data), prepare, whole=rng.random() < WHOLE)


PREPARED = ("meta.json", "meta.json", "meta.json", "data.npy", "labels.npy", "")
LATENTS = ("latents/meta.json", "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "vae")


def by_prepared(rng: random.Random) -> Iterator[Case]:
    """Prepared sets, tar files and unfinished preparations that are damaged, in memory and on disk."""
    while True:
        seed, what = rng.randrange(2**32), rng.choice(("set", "set", "set", "shards.tar", "unfinished", "latents"))

        def prepare(folder: Path, seed: int = seed, what: str = what) -> None:
            generator = random.Random(seed)
            readers.IN_MEMORY = generator.choice((0, 1 << 30))
            _damage_prepared(folder, what, generator)

        options = ("--data", what) if what != "unfinished" else ()
        command = ("distill", "--out", "out", *SMALL, *options) if options else ("prepare", "images", "--out", "begun")
        if what == "shards.tar" and rng.random() < 0.5:
            command = ("prepare", what, "--out", "out")
        encoded = what == "latents" and rng.random() < 0.3
        command = ("prepare", "images", "--encode", "vae:vae", "--out", "out") if encoded else command
        yield Case("prepared", f"{what} {seed}", command, prepare, whole=what == "latents" or rng.random() < WHOLE)


def _damage_prepared(folder: Path, what: str, rng: random.Random) -> None:
    if what == "unfinished":  # what a killed preparation left, and something else happened to
        stop = iter([False, False, False, True])
        with contextlib.suppress(Interrupted):
            prepare_data(folder / "images", folder / "begun", should_stop=lambda: next(stop, True))
        path = folder / "begun" / rng.choice(("unfinished.json", "data.npy"))
    elif what == "latents":
        path = folder / rng.choice(LATENTS)
    else:
        path = folder / what / rng.choice(PREPARED) if what == "set" else folder / what
    if path.is_dir():
        return
    if rng.random() < 0.7 and path.suffix == ".json":
        path.write_bytes(_mutation(path, rng))
    elif rng.random() < 0.7:
        path.write_bytes(damaged(path.read_bytes(), rng)[0])
    else:
        content = path.read_bytes()
        path.unlink()
        how = rng.choice(("missing", "folder", "link", "unreadable", "pipe"))
        if how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(folder / "notes.txt")
        elif how == "unreadable":
            path.write_bytes(content)
            path.chmod(0)
        elif how == "pipe":
            os.mkfifo(path)


def rng_names(rng: random.Random) -> tuple[str, ...]:
    return rng.choice((("",), ("a", "b"), ("a", ""), ("é", "b\nc")))


# -- options ---------------------------------------------------------------------------------------------------------------

WORDS = (
    *TEXTS, "run", "run/student", "data.npz", "data.npy", "images", "pairs:two", "pairs.npz", "notes.txt", "recipe.yaml", "out",
    "out.png", "out.npz",
    "run/config.yaml", "run/checkpoints", "run/checkpoints/student-00000002.safetensors", "run/student/model.safetensors", "cpu", "cuda:7",
    "teacher", "student", "balanced", "0,1", "0,,1", "1" * 23, "²", "-5", "0.5", "10s", "1h", "0s", "1e9", "24GiB", "GiB", "correct",
    "paper",
    "interpolants", "linear", "plugins", "--help", "--out", "-n", "mine.py", "mine.py:x", "edm:run", "diffusers:images",
    "flow_matching:notes.txt",
)  # fmt: skip
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # arguments that work, and options
    "train": (("--data", "data.npz", "--out", "out", *SMALL), ("--family", "--recipe", "--config", "--data", "--out", "--seed",
    "--device", "--steps", "--time", "--plugins", "--pictures", "--resume")),
    "prepare": (
        ("images", "--out", "out", "--size", "4"),
        ("--out", "--size", "--channels", "--held-out", "--encode", "--encode", "--workers", "--strict", ""),
    ),
    "distill": (
        ("--data", "data.npz", "--out", "out", *SMALL),
        ("--teacher", "--student", "--loss", "--alpha", "--beta", "--gamma", "--recipe", "--config", "--data", "--out", "--seed",
        "--device", "--steps", "--time", "--plugins", "--pictures",
         "--resume", "--trust"),
    ),
    "sample": (
        ("run", "-n", "2", "--out", "out.npz"),
        ("-n", "--out", "--labels", "--of", "--latents", "--seed", "--device", "--plugins", "--trust", ""),
    ),
    "evaluate": (("run", "--draws", "1"), ("--draws", "--seed", "--device", "")),
    "export": (("run", "--to", "pt2", "--out", "out"), ("--to", "--out", "--license", "--set", "--plugins", "--trust", "")),
    "demo": (("run", "--port", "0"), ("--port", "--device", "--trust", "")),  # port 0 is refused: nothing is served
    "score": (("data.npz", "data.npz"), ("-n", "--extractor", "--out", "--device", "")),
    "compare": (("run", "run"), ("",)),
    "report": (("run",), ("--out", "")),
    "watch": (("run", "--once"), ("",)),
    "resume": (("run",), ("--checkpoint", "--changed-data", "--plugins", "--trust", "")),
    "plugins": ((), ("",)),
    "check": (("students", "onestep"), ("--all", "")),
    "doctor": (("run",), ("--data", "--seed", "")),
    "convert": (("run/student/model.safetensors", "--out", "out.safetensors"), ("--out", "--entry", "")),
    "plan": (("recipe.yaml", "--set", "data.name=data.npz"), ("--memory", "--set", "--data", "")),
    "schema": ((), ("",)),
}  # fmt: skip
RARE = ("check", "evaluate", "export", "score", "doctor", "plan")


def by_option(rng: random.Random) -> Iterator[Case]:
    """Options and arguments of every command."""
    while True:
        command = rng.choice([name for name in OPTIONS if name not in RARE or rng.random() < 0.25])
        working, options = OPTIONS[command]
        option, word = rng.choice(options), rng.choice(WORDS)
        extra = (word,) if option == "" else (option,) if rng.random() < 0.08 else (option, word)
        argv = [*working, *extra]
        if option == "" and working and rng.random() < 0.8:  # in place of an argument, not beside it
            argv = [word, *working[1:]]
        if option in ("--teacher", "--plugins") and word.endswith(".py"):  # a file that is there and that the user names is run
            continue
        if command == "prepare" and word in ("/", "../.."):  # every image of the machine, or of its temporary files
            continue
        prepare = _cut if command == "resume" and rng.random() < 0.5 else (lambda folder: None)
        yield Case("option", " ".join([command, *(part[:60] for part in extra)]), (command, *argv), prepare)


def _writes(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


KINDS: dict[str, Callable[[random.Random], Iterator[Case]]] = {
    "set": by_set,
    "config": by_config,
    "python": by_python,
    "run file": by_run_file,
    "arrays": by_arrays,
    "images": by_images,
    "option": by_option,
    "prepared": by_prepared,
}


def cases(kind: str, seed: int) -> Iterator[Case]:
    """Yields the wrong inputs of a kind; the same for the same seed."""
    return KINDS[kind](random.Random(f"{kind} {seed}"))
