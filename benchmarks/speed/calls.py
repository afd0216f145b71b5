"""How much of the project runs between the command and the first optimiser step, and in one critic step?

Counts distinct functions and files of matchlib and matchlib_cli by ``sys.setprofile``, with the teacher in the cache:

    python -m benchmarks.speed.calls [--root CHECKOUT]

prints JSON, which results/calls.json keeps for this checkout. Only the first process of a run is looked at;
what libraries do is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

STEPS = ("step", "_turn")  # names of Trainer's method that takes a step, today's and the one before
SETTINGS = ("teacher.network.width=8", "teacher.network.depth=1", "teacher.training.steps=2", "trainer.steps=4", "evaluation.draws=1")
ONCE = ("RunSettings", "Components", "Distillation")  # classes that are made once


class Counter:
    """Counts project functions until the first step ends.

    Args:
        root: of the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.before, self.inside = f"{root}{os.sep}matchlib", set[CodeType](), set[CodeType]()
        self.made: dict[str, int] = dict.fromkeys(ONCE, 0)
        self.step: FrameType | None = None
        self.done = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if self.done:
            return
        if event == "call" and code.co_name == "__init__":  # that of a dataclass has no file
            self._count(frame)
        if not code.co_filename.startswith(self.root):
            return
        if event == "return" and frame is self.step:
            self.done = True
        if event != "call" or code.co_name in ("<module>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>", "<lambda>"):
            return
        if code.co_name in STEPS and code.co_filename.endswith("trainer.py") and self.step is None:
            self.step = frame
        (self.before if self.step is None else self.inside).add(code)

    def _count(self, frame: FrameType) -> None:
        """Counts a new object, but not again where its class calls the constructor of its base."""
        new, caller = frame.f_locals.get("self"), frame.f_back
        kind = type(new).__name__
        if kind in self.made and (caller is None or caller.f_locals.get("self") is not new):
            self.made[kind] += 1


def summary(codes: set[CodeType]) -> dict[str, int]:
    """Returns how many functions in how many files."""
    return {"functions": len(codes), "files": len({code.co_filename for code in codes})}


def run(argv: list[str], counter: Counter | None) -> None:
    """Runs a command of the command line, quietly."""
    from matchlib_cli.app import main

    sys.setprofile(counter)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main(argv)
    finally:
        sys.setprofile(None)


def measure(root: Path) -> dict[str, Any]:
    """Returns the counts for the code in a checkout."""
    sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        argv = ["distill", "--teacher", "flow", "--device", "cpu"]
        argv += [part for item in SETTINGS for part in ("--set", item)]
        run([*argv, "--out", f"{folder}/first"], None)  # trains the teacher and imports everything
        counter = Counter(root)
        run([*argv, "--out", f"{folder}/second"], counter)
    if not counter.done:
        raise SystemExit("no step was taken")
    return {"before the first step": summary(counter.before), "in one critic step": summary(counter.inside), "made": counter.made}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("--root", type=Path, default=here)
    root = parser.parse_args().root.resolve()
    found = measure(root)
    print(json.dumps(found, indent=2))
    if root == here:
        from benchmarks.record import save  # after the count: it imports the library

        save("calls", [{"what": what, **counts} for what, counts in found.items()])
