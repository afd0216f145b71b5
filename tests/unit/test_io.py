"""Files: written whole or not at all, read with one line for what is wrong, never followed or run."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from matchlib.errors import ArtifactError
from matchlib.io import (
    append_text,
    cache_folder,
    copy_fitting,
    lock,
    parse_yaml,
    read_checkpoint,
    read_json,
    read_tensors,
    read_text,
    read_yaml,
    remove_partial,
    tensor_shapes,
    write_atomically,
    write_folder,
    write_json,
    write_tensors,
    write_text,
)


def test_cache_folder_is_that_of_xdg_where_it_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "matchlib"
    for ignored in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder().is_absolute()
        assert "relative" not in str(cache_folder())


# -- writing ----------------------------------------------------------------------------------------------------------------


def test_write_atomically_leaves_the_old_file_and_nothing_else_where_it_fails(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match=r"a\.txt cannot be written: No space left on device"):
        write_atomically(tmp_path / "a.txt", fail)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "old")]


def test_write_folder_leaves_nothing_where_it_fails_and_overwrites_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_text("whole")

    def fail(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(ArtifactError, match="out cannot be written: No space left on device"):
        write_folder(tmp_path / "out", fail)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", fill)
    assert (tmp_path / "out" / "file").read_text() == "whole"
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path)
    for name, said in (("out", "not empty"), ("file", "no folder"), ("link", "no folder"), ("file/inside", "cannot be written")):
        with pytest.raises(ArtifactError, match=said):
            write_folder(tmp_path / name, fill)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file", "link"}


def test_remove_partial_removes_what_killed_writers_of_folders_left(tmp_path: Path) -> None:
    (tmp_path / ".partial-folder").mkdir()
    for name in (".partial-folder/file", ".partial-z", "kept"):
        (tmp_path / name).write_text("")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_write_atomically_replaces_links_and_does_not_follow_them(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "target").read_text() == "untouched"
    assert not (tmp_path / "link").is_symlink()


def test_remove_partial_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves a file of a checkpoint's size; the next start removes it, and nothing else."""
    (tmp_path / "kept.txt").write_text("kept")
    child = os.fork()
    if child == 0:
        write_atomically(tmp_path / "a.safetensors", lambda partial: os._exit(0))
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
    remove_partial(tmp_path / "missing")


def test_lock_keeps_a_second_process_out_until_the_first_ends(tmp_path: Path) -> None:
    lock(tmp_path)
    lock(tmp_path)
    code = f"from pathlib import Path; from matchlib.io import lock; lock(Path({str(tmp_path)!r}))"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"another process works in {tmp_path} ({os.getpid()} on {socket.gethostname()!r}" in second.stderr
    ended = tmp_path / "ended"
    subprocess.run([sys.executable, "-c", code.replace(str(tmp_path), str(ended))], check=True)
    lock(ended)
    lock(tmp_path / "other")


def test_lock_of_a_folder_that_was_made_again_is_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        lock(tmp_path / "run")
        assert (tmp_path / "run" / ".lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("holder", "free"), [("{host} {gone}", True), ("{host} 1", False), ("elsewhere 1", False), ("", True), ("x", True)]
)
def test_lock_on_a_file_system_without_locks_knows_a_stale_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: str, free: bool
) -> None:
    import fcntl

    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / ".lock").write_text(holder.format(host=socket.gethostname(), gone=child.pid))
    monkeypatch.setattr(fcntl, "flock", unsupported)
    if free:
        lock(tmp_path)
    else:
        with pytest.raises(ArtifactError, match=r"another process works in .* \(1 on .*remove .*\.lock"):
            lock(tmp_path)


def test_lock_refuses_a_folder_of_which_a_part_is_a_link(tmp_path: Path) -> None:
    """Whatever is written into checkpoints/ would be written, and rotated, elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="checkpoints is a link to another folder"):
        lock(tmp_path / "run")


def test_append_text_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    append_text(tmp_path / "log", "a\n")
    append_text(tmp_path / "log", "b\n")
    assert (tmp_path / "log").read_text() == "a\nb\n"
    (tmp_path / "link").symlink_to(tmp_path / "log")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            append_text(tmp_path / name, "c\n")
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_parse_yaml_turns_whatever_it_raises_into_one_error() -> None:
    assert parse_yaml("a: [1, x]") == {"a": [1, "x"]}
    for text in ("[", "!!float x", "!!timestamp x", "!!python/object:os.system {}", "{[1]: 2}", "\0", "a: &b [*c]"):
        with pytest.raises(ValueError, match="it is no YAML"):
            parse_yaml(text)


def test_write_json_and_write_tensors_are_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [float("inf"), -float("inf"), 1.5]})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": ["inf", "-inf", 1.5]}
    tensors = {"a": torch.randn(2, 3), "b": torch.tensor(3, dtype=torch.bfloat16), "c": torch.tensor([True])}
    write_tensors(tmp_path / "a.safetensors", tensors, {"step": "3"})
    result, note = read_tensors(tmp_path / "a.safetensors")
    assert note == {"step": "3"}
    assert all(torch.equal(result[name], x) for name, x in tensors.items())
    assert tensor_shapes(tmp_path / "a.safetensors") == {name: x.shape for name, x in tensors.items()}


# -- reading ----------------------------------------------------------------------------------------------------------------

READERS: list[Callable] = [read_text, read_json, read_yaml, read_tensors, tensor_shapes, read_checkpoint]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize(
    "name", ["missing", "folder", "x" * 5000, "binary", "a\0b", "pipe"], ids=["missing", "folder", "long", "binary", "nul", "pipe"]
)
def test_readers_refuse_in_one_line(tmp_path: Path, read: Callable, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80" * 9)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError) as refusal:
        read(tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert "--unpickle" not in str(refusal.value)


@pytest.mark.parametrize("text", ["[1, 2]", "5", '{"a": ', "[" * 100_000, "{1: 2}", "a: b: c", "!!python/object/apply:os.system [x]"])
@pytest.mark.parametrize("read", [read_json, read_yaml], ids=lambda read: read.__name__)
def test_read_json_and_read_yaml_refuse_what_is_no_mapping(tmp_path: Path, read: Callable, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(ArtifactError) as refusal:
        read(tmp_path / "a")
    assert "\n" not in str(refusal.value)


def test_read_yaml_takes_an_empty_file_for_an_empty_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


def test_read_tensors_notices_a_changed_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="its checksum is wrong"):
        read_tensors(path)
    path.write_bytes(content[:-8])
    for read in (read_tensors, tensor_shapes):
        with pytest.raises(ArtifactError):
            read(path)


# -- weights of others ------------------------------------------------------------------------------------------------------


def test_copy_fitting_copies_what_fits_and_names_the_rest() -> None:
    small, large = (nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in (4, 5))
    fit = copy_fitting(small, {**large.state_dict(), "head.weight": torch.ones(2)})
    assert fit.copied == ("1.bias",)
    assert set(fit.missing) == {"0.weight", "0.bias", "1.weight"}
    assert "head.weight" in fit.unused
    assert torch.equal(small[1].bias, large[1].bias)
    assert "1 tensors copied, 8% of the weights" in str(fit)


class _Evil:
    def __reduce__(self) -> tuple:
        return (open, ("evil", "w"))


def test_read_checkpoint_runs_no_code_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: object) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": {"a": torch.ones(2)}, "evil": _Evil()}, "bad.pt", pickle_module=pickle)
    code, _, err = cli("convert", "bad.pt", "--entry", "weights", "--out", "a.safetensors")
    assert code == 2
    assert "--unpickle" in err
    assert not Path("evil").exists()
    code, out, _ = cli("convert", "bad.pt", "--entry", "weights", "--unpickle", "--out", "a.safetensors")
    assert code == 0
    assert "any code in it runs now" in out
    assert torch.equal(read_checkpoint("a.safetensors")["a"], torch.ones(2))
    assert cli("convert", "bad.pt", "--out", "a.bin")[0] == 2
    assert cli("convert", "missing.pt", "--out", "a.safetensors")[0] == 2


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"], ids=["empty", "text", "cut"])
def test_read_checkpoint_advises_unpickling_only_where_there_is_code(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ArtifactError) as refusal:
        read_checkpoint(tmp_path / "a.pt")
    assert "--unpickle" not in str(refusal.value)


def test_whole_numbers_beyond_all_bounds_are_read_as_floats(tmp_path: Path) -> None:
    """Arithmetic with such an integer fails where a float is made of it."""
    (tmp_path / "large.json").write_text('{"a": 1' + "0" * 400 + ', "b": -9223372036854775808000, "c": 9007199254740993}')
    assert read_json(tmp_path / "large.json") == {"a": float("inf"), "b": -9.223372036854775808e21, "c": 9007199254740993}


class Mine(nn.Module):
    """Pickled whole, as ``torch.save(model)`` does it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def test_convert_unpickles_modules_and_plain_pickles(tmp_path: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = Mine()
    torch.save(net, "whole.pt")
    torch.save({"ema": net}, "within.pt")
    for name, what in (("plain.pkl", {"ema": net}), ("weights.pkl", net.state_dict())):
        Path(name).write_bytes(pickle.dumps(what))
    for name, entry in (("whole.pt", ""), ("within.pt", "ema"), ("plain.pkl", "ema"), ("weights.pkl", "")):
        code, _, err = cli("convert", name, "--entry", entry, "--unpickle", "--out", "out.safetensors")
        assert code == 0, err
        assert torch.equal(read_tensors(tmp_path / "out.safetensors")[0]["layer.weight"], net.layer.weight)
    code, _, err = cli("convert", "out.safetensors", "--entry", "ema", "--out", "again.safetensors")
    assert code == 2 and "has no entries" in err
    Path("text.pt").write_text("no checkpoint")
    code, _, err = cli("convert", "text.pt", "--unpickle", "--out", "again.safetensors")
    assert code == 2 and "cannot be unpickled here" in err
