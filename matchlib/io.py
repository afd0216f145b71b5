"""Files: written whole or not at all, read without running code, and the folder for caches."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import socket
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from matchlib.errors import ArtifactError, IncompatibleError, nearest

__all__ = [
    "CopiedWeights",
    "append_text",
    "at_most",
    "cache_folder",
    "check_new_folder",
    "content_digest",
    "copy_fitting",
    "is_empty",
    "lock",
    "parse_yaml",
    "read_checkpoint",
    "read_json",
    "read_tensors",
    "read_text",
    "read_yaml",
    "remove_partial",
    "select",
    "tensor_shapes",
    "unlock",
    "unpickled",
    "whole_number",
    "write_atomically",
    "write_folder",
    "write_json",
    "write_tensors",
    "write_text",
]

PARTIAL = ".partial-"  # what the names of files that are being written begin with
LOCK = ".lock"
CHECKSUM = "blake2b"  # key of the checksum in the metadata of safetensors

_locks: dict[Path, int] = {}  # folders that this process has locked, and the open files that hold the locks


def _no_fault(moment: str, path: Path) -> None:
    """Lets a write go on."""


on_write: Callable[[str, Path], None] = _no_fault
"""The switch of fault injection: called at every write of a file with its moment (``begin``, ``written``, ``before rename``, ``after
rename``) and the path; a test puts a function here that raises an ``OSError``, cuts the file short, or ends the process."""


def cache_folder() -> Path:
    """Returns the user's cache folder of this library: ``$XDG_CACHE_HOME/matchlib`` where that is set to an absolute path."""
    from platformdirs import user_cache_dir  # imported here: a saved model is loaded without it

    folder = Path(user_cache_dir("matchlib", appauthor=False))
    return folder if folder.is_absolute() else Path.home() / ".cache" / "matchlib"


# -- writing ----------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a new file of the same folder, flushes it to disk and moves it to ``path``.

    A link at ``path`` is replaced, never followed. What a killed process leaves is removed by ``remove_partial``.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full; ``path`` is as it was.
    """
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        on_write("begin", path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
        os.close(handle)
        partial = Path(name)
        write(partial)
        on_write("written", partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        on_write("before rename", path)
        partial.replace(path)
        on_write("after rename", path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be written: {_reason(error)}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a new folder beside ``path`` and moves it there when it is whole; after an error nothing stays.

    Raises:
        ArtifactError: ``path`` is there and not an empty folder, or cannot be written.
    """
    check_new_folder(path)
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=PARTIAL))
        write(partial)
        partial.chmod(0o755)
        if path.is_dir():
            path.rmdir()
        partial.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {_reason(error)}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def check_new_folder(path: Path) -> None:
    """Refuses a path at which something is already.

    Raises:
        ArtifactError: it is a file, or a folder that is not empty.
    """
    if "\0" in str(path):
        raise ArtifactError(f"{str(path)!r} is no path: it has a null character")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ArtifactError(f"{path} is there and no folder; choose another --out")
    if path.is_dir() and any(path.iterdir()):
        raise ArtifactError(f"{path} is there and not empty; choose another --out, or remove it")


def append_text(path: Path, text: str) -> None:
    """Appends text in UTF-8 to a file; a link is not followed, and a pipe not waited for.

    Raises:
        OSError: it cannot be written, or is no plain file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    on_write("begin", path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags, 0o644), "a", encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path.name} is no plain file")
        file.write(text)
    on_write("written", path)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left of files that they were writing into ``folder``; nobody may be writing there now."""
    try:
        for file in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    except OSError:
        return  # they only take space


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process that was killed before its first file left."""
    return all(path.name == LOCK or path.name.startswith(PARTIAL) for path in folder.iterdir())


def lock(folder: Path) -> None:
    """Keeps other processes out of a folder until ``unlock`` or the end of this one, and removes what killed ones were writing there.

    The system gives the lock back however a process ends. The file holds host and process, for the message, and for file systems without
    locks: there a process that is gone from this host is known not to hold it.

    Raises:
        ArtifactError: another process works in the folder, it cannot be written, or a part of it is a link to another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if _is_held(folder):
            return
        links = [path.name for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {_reason(error)}") from error
    if links:
        os.close(file)
        raise ArtifactError(
            f"{folder / links[0]} is a link to another folder, where nothing is written: move it here, or link {folder} whole"
        )
    holder = _holder(file)
    if not _take(file, holder):
        os.close(file)
        who = f" ({holder[1]} on {holder[0][:64]!r}; if it is gone, remove {folder / LOCK})" if holder else ""
        raise ArtifactError(f"another process works in {folder}{who}: wait for it, or choose another --out")
    os.ftruncate(file, 0)
    os.pwrite(file, f"{socket.gethostname()} {os.getpid()}\n".encode(), 0)
    unlock(folder)  # of a folder that was removed and made again
    _locks[folder.resolve()] = file
    remove_partial(folder)
    for part in folder.iterdir():
        if part.is_dir():
            remove_partial(part)


def unlock(folder: Path) -> None:
    """Lets other processes into a folder again; nothing where it is not held."""
    file = _locks.pop(folder.resolve(), None)
    if file is not None:
        os.close(file)


def _is_held(folder: Path) -> bool:
    """Whether this process holds the lock of a folder; one that was removed and made again has another."""
    file = _locks.get(folder.resolve())
    try:
        return file is not None and os.path.samestat(os.fstat(file), os.stat(folder / LOCK, follow_symlinks=False))
    except OSError:
        return False


def _holder(file: int) -> tuple[str, int] | None:
    """Returns host and process that a lock's file names."""
    host, _, process = os.pread(file, 300, 0).decode("utf-8", "replace").strip().rpartition(" ")
    return (host, int(process)) if host and process.isascii() and process.isdigit() else None


def _take(file: int, holder: tuple[str, int] | None) -> bool:
    """Locks an open file, without waiting; returns whether it could. The system releases it when the process ends, however it ends."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):  # a file system without locks
            return holder is None or (holder[0] == socket.gethostname() and not _is_alive(holder[1]))
        return False
    return True


def _is_alive(process: int) -> bool:
    """Whether a process of this host is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return process != os.getpid()


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically; NaN becomes null and infinities strings, so that every reader can read it."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if isinstance(value, float) and math.isnan(value) else value


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str] | None = None) -> None:
    """Writes tensors as safetensors, atomically, with a note of strings and a checksum of all of it.

    A tensor that shares memory with another, such as a weight under two names, is written under each name.
    """
    whole: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, x in tensors.items():
        own = x.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        whole[name] = own.clone() if memory in taken else own
        taken.add(memory)
    note = dict(note or {})
    write_atomically(path, lambda partial: save_file(whole, partial, {**note, CHECKSUM: content_digest(whole, note)}))


def content_digest(tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> str:
    """Returns a digest of names, shapes, types, contents and note."""
    digest = hashlib.blake2b(json.dumps(sorted(note.items())).encode(), digest_size=16)
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# -- reading ----------------------------------------------------------------------------------------------------------------


def _reason(error: BaseException) -> str:
    """The first line of what an error says."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(text.splitlines()), "") or type(error).__name__


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever reading a file raises into one line; opens no pipe or device, which may never answer."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder" if path.is_dir() else "it is no plain file")
        yield
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} cannot be read: it is not text in UTF-8") from error
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {_reason(error)}") from error


def read_text(path: Path, errors: str = "strict") -> str:
    """Reads text in UTF-8.

    Args:
        errors: what becomes of bytes that are none, as for ``bytes.decode``.

    Raises:
        ArtifactError: it is missing, a folder, or no text.
    """
    with _reading(path):
        return path.read_text(encoding="utf-8", errors=errors)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    with _reading(path):
        return _mapping(path, json.loads(read_text(path), parse_int=whole_number), "a JSON object")


def whole_number(text: str) -> int | float:
    """Returns a whole number that arithmetic can go on with: one that is too large for that is a float, perhaps infinite."""
    value = float(text)
    return int(text) if abs(value) < 2**63 else value


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping of plain values; an empty file is an empty mapping.

    Raises:
        ArtifactError: it is missing, damaged, or something else.
    """
    text = read_text(path)
    with _reading(path):
        tree = parse_yaml(text)
    return _mapping(path, {} if tree is None else tree, "a YAML mapping")


def parse_yaml(text: str) -> Any:
    """Returns the plain value that YAML means.

    Raises:
        ValueError: it is none.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except Exception as error:  # its constructors raise anything: KeyError and AttributeError for odd tags, say
        raise ValueError(f"it is no YAML: {' '.join(str(error).split())[:300]}") from error


def _mapping(path: Path, value: Any, wanted: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ArtifactError(f"{path} must hold {wanted} whose keys are text, got {type(value).__name__}")
    return value


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and their note.

    Raises:
        ArtifactError: the file is missing or damaged, or its checksum, if it has one, is another.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        note = file.metadata() or {}
    checksum = note.pop(CHECKSUM, None)
    if checksum is not None and checksum != content_digest(tensors, note):
        raise ArtifactError(f"{path} is damaged: its checksum is wrong")
    return tensors, note


def tensor_shapes(path: Path) -> dict[str, torch.Size]:
    """Returns the shapes of a safetensors file's tensors, from its header alone.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    with _reading(path), safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


MARGIN = 64  # parameters that a network may register and replace while it is made


@contextmanager
def at_most(tensors: int) -> Iterator[None]:
    """A context in which networks that register many more parameters than a file has are refused, before they use up the memory."""
    count, most = 0, 4 * tensors + MARGIN

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise IncompatibleError(f"the network has more than {most} tensors, and the file {tensors}")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


# -- weights of others ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CopiedWeights:
    """Outcome of a copy of weights.

    Args:
        copied: names that were filled.
        missing: names of the module that the weights do not have, or have in another shape.
        unused: names of the weights that the module has no place for.
        share: of the module's numbers that were filled, in [0, 1].
    """

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} tensors copied, {self.share:.0%} of the weights"]
        for what, names in (("without a match", self.missing), ("unused", self.unused)):
            if names:
                parts.append(f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
        return "; ".join(parts)


@torch.no_grad()
def copy_fitting(module: nn.Module, tensors: Mapping[str, Tensor]) -> CopiedWeights:
    """Copies the tensors whose name and shape fit into a module, and says what did not."""
    state = module.state_dict()
    fitting = [name for name, x in state.items() if name in tensors and tensors[name].shape == x.shape]
    for name in fitting:
        state[name].copy_(tensors[name])
    filled, total = (sum(state[name].numel() for name in names) for names in (fitting, state))
    missing, unused = (tuple(name for name in names if name not in fitting) for names in (state, tensors))
    return CopiedWeights(tuple(fitting), missing, unused, filled / max(total, 1))


def read_checkpoint(path: str | Path, entry: str = "") -> dict[str, Tensor]:
    """Reads named tensors of a checkpoint: safetensors, or a file of ``torch.save`` with ``weights_only=True``.

    Args:
        entry: keys to the tensors with dots between, such as ``ema_models.0.9999``; empty for the top. Safetensors have no entries.

    Raises:
        ArtifactError: it is missing, cannot be read without running its code, or has no such entry.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        if entry:
            raise ArtifactError(f"{path} has no entries, as safetensors never have: leave {entry!r} out")
        return read_tensors(path)[0]
    with _reading(path):
        pickled = _pickled(path)
    if not pickled:
        raise ArtifactError(f"{path} is no checkpoint: neither FILE.safetensors nor written by torch.save")
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path} cannot be read without running code that it holds; if you trust who wrote it: "
            f"matchlib convert {path} --unpickle --out {path.with_suffix('.safetensors').name}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {_reason(error)}") from error
    return select(tree, entry, path)


def unpickled(path: Path) -> Any:
    """Returns what a file of ``torch.save``, or of ``pickle``, holds; any code in it is run.

    Raises:
        ArtifactError: it cannot be read here.
    """
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except (RuntimeError, pickle.UnpicklingError):
            if zipfile.is_zipfile(path):
                raise
            with path.open("rb") as file:  # a pickle that torch did not write
                return pickle.load(file)
    except Exception as error:  # whatever code of somebody else's raises
        raise ArtifactError(f"{path} cannot be unpickled here: {type(error).__name__}: {_reason(error)}") from error


def _pickled(path: Path) -> bool:
    """Whether a file begins as those of ``torch.save`` do: an archive, or a pickle in older versions."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def select(tree: Any, entry: str, path: Path) -> dict[str, Tensor]:
    """Returns the named tensors at an entry of a tree of mappings, or of a module there; keys may hold dots themselves.

    Raises:
        ArtifactError: there is no such entry, or no tensors in it.
    """
    rest = entry
    while rest:
        keys = [str(key) for key in tree] if isinstance(tree, Mapping) else []
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}.")]
        if not fitting:
            raise ArtifactError(f"{path} has no entry {entry!r} (there are: {', '.join(keys[:12]) or 'none'}){nearest(rest, keys)}")
        longest = max(fitting, key=len)
        tree, rest = next(value for key, value in tree.items() if str(key) == longest), rest[len(longest) + 1 :]
    tree = tree.state_dict() if isinstance(tree, nn.Module) else tree
    tensors = {str(name): x for name, x in tree.items() if isinstance(x, Tensor)} if isinstance(tree, Mapping) else {}
    if not tensors:
        inside = ", ".join(str(key) for key in tree) if isinstance(tree, Mapping) else type(tree).__name__
        raise ArtifactError(f"{path} holds no named tensors at {entry or 'its top'} (there is: {inside[:200]}); choose an entry")
    return tensors
