"""Runs one wrong input in this process and judges how it ended."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

LIMIT = 15  # seconds that a case may take
GIVEN_UP = "given up"
OWN = {  # what a command may write into the folder of a run that it was pointed at
    "config.yaml", "metrics.jsonl", "samples.png", "evaluation.json", "report.html", "report.safetensors", "comparison.html", ".lock",
    "data.json",
    "teacher", "student", "checkpoints", "evaluation",
}  # fmt: skip
NEW = {"out", "out.npz", "out.png", "out.html", "out.safetensors", "comparison.html", "runs"}  # what it may make in the working folder


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Args:
        kind: class of inputs that it belongs to.
        name: what is wrong with it.
        argv: of the command; relative paths are of the working folder.
        prepare: makes the wrong files in the working folder.
        call: what is called instead of a command, for the Python API.
        whole: whether an accepted run is carried out, and not only begun.
    """

    kind: str
    name: str
    argv: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda folder: None
    call: Callable[[], Any] | None = None
    whole: bool = False


@dataclass
class Verdict:
    """How a case ended.

    Args:
        code: exit code; None for an exception that came through.
        faults: what should not have been.
    """

    code: int | None
    err: str
    faults: list[str] = field(default_factory=list)


_clean: set[Path] = set()  # folders that are as their template


@cache
def _pristine(template: Path) -> dict[str, bytes]:
    return contents(template)


class _TooLong(BaseException):
    pass


def _alarm(number: int, frame: FrameType | None) -> None:
    raise _TooLong


def contents(folder: Path) -> dict[str, bytes]:
    """What every file of a folder holds; links are not followed."""
    files: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            files[name] = b"-> " + os.fsencode(os.readlink(path))
        elif path.is_file():
            files[name] = path.read_bytes() if os.access(path, os.R_OK) and path.stat().st_size < 1 << 22 else str(path.stat()).encode()
    return files


def run(case: Case, template: Path, folder: Path) -> Verdict:
    """Carries out a case in a fresh copy of a template folder, and judges its end."""
    pristine = _pristine(template)
    if folder not in _clean:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder, symlinks=True)
    _clean.discard(folder)
    case.prepare(folder)
    before = contents(folder)
    with _inside(folder, whole=case.whole):
        code, out, err = _ended(case)
    if code == 2 and case.argv[:1] == ("doctor",) and "likely mistake" in out:  # a diagnosis, not a refusal
        code = 0
    verdict = Verdict(code, err)
    after = contents(folder)
    verdict.faults = [*_faults_of_end(code, err, notices=case.call is not None), *_faults_of_files(case, before, after, code)]
    if after == pristine and not any(path.is_dir() and not any(path.iterdir()) for path in folder.rglob("*")):
        _clean.add(folder)
    return verdict


@contextlib.contextmanager
def _inside(folder: Path, *, whole: bool) -> Iterator[None]:
    """A working folder; runs that are accepted are stopped before they train, unless they are to be carried out."""
    from matchlib.errors import Interrupted
    from matchlib.runs.run import Run

    before = Path.cwd()
    os.chdir(folder)
    stop = mock.patch.object(Run, "execute", mock.Mock(side_effect=Interrupted(GIVEN_UP)))
    try:
        with contextlib.nullcontext() if whole else stop, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)


def _ended(case: Case) -> tuple[int | None, str, str]:
    from matchlib_cli.app import main
    from matchlib_cli.errors import exit_code

    out, err = io.StringIO(), io.StringIO()
    previous = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    faulthandler.dump_traceback_later(2 * LIMIT, exit=True)  # where no signal is heard
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if case.call is None:
                main(list(case.argv))
            else:
                call = case.call
                sys.exit(exit_code(lambda: (call(), 0)[1], given=case.name))
    except SystemExit as ended:
        code: int | None = int(ended.code or 0)
    except _TooLong:
        code = None
        err.write(f"Traceback: longer than {LIMIT} s\n")
    except BaseException as error:
        code = None
        err.write(f"Traceback: {type(error).__name__}: {error}\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, previous)
    return code, out.getvalue(), err.getvalue()


def _faults_of_end(code: int | None, err: str, *, notices: bool) -> list[str]:
    faults = []
    if code not in (0, 1, 2, 3, 130):
        faults.append(f"exit {code}")
    if "Traceback" in err:
        faults.append("traceback")
    lines = [line for line in err.splitlines() if line.strip() and (not notices or line.startswith("matchlib: "))]
    if (code in (3, 130) and len(lines) > 1) or (code == 2 and len(lines) != 1):
        faults.append(f"{len(lines)} lines on stderr")
    if any(len(line) > 1200 for line in lines):
        faults.append("a line of more than 1,200 characters")
    return faults


def _faults_of_files(case: Case, before: dict[str, bytes], after: dict[str, bytes], code: int | None) -> list[str]:
    faults = []
    for name in before.keys() | after.keys():
        if before.get(name) == after.get(name):
            continue
        top, *rest = Path(name).parts
        what = "lost" if name not in after else "written" if name not in before else "changed"
        of_run = (top in ("run", "cut") and bool(rest) and rest[0] in OWN) or top == "begun"
        if what == "written" and code != 2 and "out" in case.name.split(":")[0]:  # the case says where to
            continue
        if what == "changed" and code == 0 and case.name.split()[1:] == ["--out", name]:  # and may name a file that is there
            continue
        if not (of_run or (top in NEW and name not in before)):
            faults.append(f"{what} {name}")
        elif code == 2 and what == "written" and Path(name).name != ".lock" and not of_run:
            faults.append(f"refused, but {what} {name}")
    return sorted(faults)
