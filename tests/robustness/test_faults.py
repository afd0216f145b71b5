"""Every write of a run may fail, be cut short, or be the last that a process does: the run ends with equal weights, or says from where."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from matchlib import io

TINY = [
    "--set", "teacher.network={name: mlp, width: 8, depth: 1}", "--set", "teacher.training={steps: 3, batch_size: 8, checkpoint_every: 1}",
    "--set", "trainer={steps: 4, batch_size: 8, checkpoint_every: 2, log_every: 2}",
    "--set", "evaluation={draws: 1, metrics: [frechet-raw]}",
]  # fmt: skip
Fault = Callable[[str, Path], None]


def full(moment: str, path: Path) -> None:
    if moment == "begin":
        raise OSError(errno.ENOSPC, "No space left on device")


def broken(moment: str, path: Path) -> None:
    if moment == "written":
        raise OSError(errno.EIO, "Input/output error")


def short(moment: str, path: Path) -> None:
    if moment == "written":
        os.truncate(path, path.stat().st_size // 2)
        raise OSError(errno.ENOSPC, "No space left on device")


def killed_before(moment: str, path: Path) -> None:
    if moment == "before rename":
        os.kill(os.getpid(), signal.SIGKILL)


def killed_after(moment: str, path: Path) -> None:
    if moment == "after rename":
        os.kill(os.getpid(), signal.SIGKILL)


FAULTS = (full, broken, short, killed_before, killed_after)


class Writes:
    """Counts writes, and gives one of them to a fault."""

    def __init__(self, fault: Fault | None = None, at: int = -1) -> None:
        self.fault, self.at, self.count = fault, at, 0
        self.paths: list[str] = []

    def __call__(self, moment: str, path: Path) -> None:
        if moment == "begin":
            self.count += 1
            self.paths.append(path.name)
        if self.fault is not None and self.count - 1 == self.at:
            self.fault(moment, path)


def command(argv: list[str], writes: Writes, log: Path) -> int:
    """Runs a command in a process of its own, in which the fault may kill; returns its exit code, 137 where it was killed."""
    child = os.fork()
    if child == 0:
        from matchlib_cli.app import main

        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        io.on_write = writes
        io._locks.clear()
        try:
            main(argv)
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        os._exit(99)
    _, status = os.waitpid(child, 0)
    return 137 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], Path]]:
    """The writes of an undisturbed run, and its folder."""
    base = tmp_path_factory.mktemp("straight")
    np.savez(base / "data.npz", data=np.random.default_rng(0).standard_normal((24, 2)))
    before = os.environ["XDG_CACHE_HOME"]
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    writes = Writes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        from matchlib_cli.app import main

        patch.setattr(io, "on_write", writes)
        main(["distill", "--data", str(base / "data.npz"), "--out", str(base / "run"), *TINY])
    assert not ended.value.code
    shutil.rmtree(base / "cache" / "matchlib" / "teachers")  # what follows trains its own
    yield writes.paths, base
    os.environ["XDG_CACHE_HOME"] = before


def weights(run: Path) -> dict[str, Any]:
    return {f"{kind}/{key}": x for kind in ("teacher", "student") for key, x in load_file(run / kind / "model.safetensors").items()}


def survive(base: Path, folder: Path, fault: Fault, at: int) -> str:
    """Lets a write fail, resumes the run, and returns how it went; raises where it does not end as the undisturbed one."""
    run, log = folder / "run", folder / "log"
    shutil.rmtree(base / "cache" / "matchlib" / "teachers", ignore_errors=True)
    start = ["distill", "--data", str(base / "data.npz"), "--out", str(run), *TINY]
    code = command(start, Writes(fault, at), log)
    said = log.read_text()
    assert code in (0, 2, 137), f"exit {code}: {said}"
    assert "Traceback" not in said, said
    if code == 2:  # an error names the file, and where the run goes on from if there is something to lose
        assert "cannot be written" in said.splitlines()[-1], said
    if code != 0:
        shutil.rmtree(base / "cache" / "matchlib" / "teachers", ignore_errors=True)
        again = command([*start, "--resume"], Writes(), log)
        assert again == 0, f"resumed: exit {again}: {log.read_text()}"
    expected = weights(base / "run")
    assert all((x == expected[key]).all() for key, x in weights(run).items()), "other weights"
    assert (run / "evaluation.json").exists()
    assert not list(run.rglob(f"{io.PARTIAL}*")), "half-written files"
    return {0: "went on", 2: "ended with its message, resumed", 137: "was killed, resumed"}[code]


@pytest.mark.slow
@pytest.mark.runs
@pytest.mark.parametrize(("fault", "at"), [(short, 5), (killed_before, 0)], ids=lambda x: str(getattr(x, "__name__", x)))
def test_run_survives_a_write_that_fails(straight: tuple[list[str], Path], tmp_path: Path, fault: Fault, at: int) -> None:
    survive(straight[1], tmp_path, fault, at)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_run_survives_each_write_that_fails(straight: tuple[list[str], Path], tmp_path: Path, fault: Fault) -> None:
    """All writes of the run, one after the other."""
    paths, base = straight
    ends = [survive(base, tmp_path / str(at), fault, at) for at in range(len(paths)) if (tmp_path / str(at)).mkdir() is None]
    print(f"{fault.__name__}: {len(paths)} writes; " + ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends)))
