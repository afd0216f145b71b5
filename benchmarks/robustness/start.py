"""What does safety cost the start of a command? Each of its parts is timed where a run calls it, until its first step.

    python -m benchmarks.robustness.start [--mnist MNIST.npz] [--rounds 7]

A run of digits (and of MNIST) is started in this process with everything that guards it, and stopped before it trains.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.record import save
from matchlib.errors import Interrupted
from matchlib.runs.run import Run
from matchlib_cli.app import main as command

GUARDS = {  # of what, and what it does
    "matchlib.runs.run.lock": "the folder is locked",
    "matchlib.runs.run.unlock": "and given back",
    "matchlib.runs.run.record_data": "the digest of the data is written",
    "matchlib.data.dataset.Dataset.repeated": "duplicates between the splits are counted",
    "matchlib.runs.build.check_answer": "a given teacher is asked once",
}


@contextlib.contextmanager
def timed(spent: dict[str, float]) -> Iterator[None]:
    """A context in which the seconds of each guard are added up."""
    with contextlib.ExitStack() as stack:
        for place in GUARDS:
            owner, name = _owner(place)
            if owner is not None:
                stack.enter_context(mock.patch.object(owner, name, _watched(getattr(owner, name), place, spent)))
        yield


def _owner(place: str) -> tuple[Any, str]:
    import importlib

    parts = place.split(".")
    for end in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ImportError):
            found: Any = importlib.import_module(".".join(parts[:end]))
            for part in parts[end:-1]:
                found = getattr(found, part)
            return (found, parts[-1]) if hasattr(found, parts[-1]) else (None, "")
    return None, ""


def _watched(function: Callable[..., Any], place: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[place] = spent.get(place, 0.0) + time.perf_counter() - begin

    return call


def start(data: str) -> dict[str, float]:
    """Starts a run and returns the milliseconds of each guard, and of all of the start."""
    spent: dict[str, float] = {}
    stopped = mock.patch.object(Run, "_make_teacher", mock.Mock(side_effect=Interrupted("started")))
    with tempfile.TemporaryDirectory() as folder, stopped, timed(spent):
        begin = time.perf_counter()
        with contextlib.suppress(SystemExit):
            command(["distill", "--data", data, "--out", str(Path(folder) / "run")])
        spent["all of the start"] = time.perf_counter() - begin
    return {GUARDS.get(place, place): 1000 * seconds for place, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    rows = []
    for name, data in {"digits": "digits", **({} if given.mnist is None else {"mnist": str(given.mnist)})}.items():
        start(data)  # imports
        rounds = [start(data) for _ in range(given.rounds)]
        ms = {key: statistics.median(row.get(key, 0.0) for row in rounds) for key in rounds[0]}
        guards = sum(value for key, value in ms.items() if key != "all of the start")
        rows.append({"data": name, "ms": ms, "guards, ms": guards})
        print(name, {key: round(value, 2) for key, value in ms.items()}, f"guards {guards:.1f} ms", flush=True)
    save("start", rows)


if __name__ == "__main__":
    main()
