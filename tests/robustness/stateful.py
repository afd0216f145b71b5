"""A run's folder under whatever may happen to it, in any order: kills, resumes, edits, copies, losses, damage.

    python -m tests.robustness.stateful [--sequences 2000] [--steps 6]; the same call goes on

However it went: the run can be finished with the weights and scores of one that was left alone, or what stands in the way is named, and
the run can be finished without it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from matchlib.errors import ArtifactError
from matchlib.io import PARTIAL, read_json, read_tensors
from matchlib_cli.app import main
from tests.robustness.test_faults import TINY, Fault, Writes, command, full, killed_after, killed_before, short

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "stateful.json"
STATE = Path(__file__).parents[2] / "build" / "stateful.json"  # the same call goes on from it
BATCH = 25  # sequences that hypothesis is asked for at once
FAULTS: dict[str, Fault] = {"killed before": killed_before, "killed after": killed_after, "full": full, "short": short}
LATEST = 40  # writes of a whole run are fewer, so that a fault may also never come
STEPS = (4, 6)  # of the student: as begun, and as edited
counts: dict[str, int] = {}  # how commands ended


class Place:
    """Where all sequences work, and what runs that are left alone end with."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="matchlib-stateful-"))
        self.sequences = 0
        os.environ["XDG_CACHE_HOME"] = str(self.base / "cache")
        np.savez(self.base / "data.npz", data=np.random.default_rng(0).standard_normal((24, 2)))
        self.expected = {}
        try:  # once in this process, so that those that are forked from it have imported everything
            main(["distill", "--data", str(self.base / "data.npz"), "--out", str(self.base / "first"), *TINY])
        except SystemExit as ended:
            assert not ended.code, ended
        for steps in STEPS:
            folder = self.base / f"alone-{steps}"
            code = command([*self.start(folder), "--set", f"trainer.steps={steps}"], Writes(), self.base / "log")
            assert code == 0, (self.base / "log").read_text()
            self.expected[steps] = result(folder)

    def start(self, folder: Path) -> list[str]:
        return ["distill", "--data", str(self.base / "data.npz"), "--out", str(folder), *TINY]


def result(folder: Path) -> dict[str, Any]:
    """Returns the weights and the scores of a finished run, without times."""
    kinds = ("teacher", "student")
    found = {f"{kind}/{key}": x for kind in kinds for key, x in read_tensors(folder / kind / "model.safetensors")[0].items()}
    report = read_json(folder / "evaluation.json")
    return found | {kind: {k: v for k, v in report[kind].items() if k != "seconds"} for kind in (*kinds, "held_out")}


def same(x: dict[str, Any], y: dict[str, Any]) -> bool:
    """Returns whether two results are equal bit for bit."""
    return x.keys() == y.keys() and all(torch.equal(a, y[k]) if isinstance(a, torch.Tensor) else a == y[k] for k, a in x.items())


_place: list[Place] = []


def place() -> Place:
    """Returns the place, made at the first call."""
    if not _place:
        _place.append(Place())
    return _place[0]


faults = st.tuples(st.sampled_from([*FAULTS]), st.integers(0, LATEST))


class RunFolder(RuleBasedStateMachine):
    """One run, from its start to its end."""

    @initialize()
    def begin(self) -> None:
        self.place = place()
        self.place.sequences += 1
        self.folder = self.place.base / f"run-{self.place.sequences}"
        self.steps, self.damaged = STEPS[0], set[str]()
        shutil.rmtree(self.place.base / "cache" / "matchlib" / "teachers", ignore_errors=True)

    def call(self, argv: list[str], fault: tuple[str, int] | None = None) -> int:
        """Runs a command, which must end as it should: done, with one line on what is wrong, or killed."""
        writes = Writes() if fault is None else Writes(FAULTS[fault[0]], fault[1])
        code = command(argv, writes, self.place.base / "log")
        self.said = (self.place.base / "log").read_text()
        assert code in (0, 2, 137), f"exit {code}: {self.said}"
        assert "Traceback" not in self.said, self.said
        name = argv[0] + {0: " done", 2: " refused or failed", 137: " killed"}[code]
        counts[name] = counts.get(name, 0) + 1
        return code

    def files(self) -> list[str]:
        """What may be lost or damaged: everything but the settings."""
        return sorted(str(x.relative_to(self.folder)) for x in self.folder.rglob("*") if x.is_file() and x.name != "config.yaml")

    def there(self) -> bool:
        return hasattr(self, "folder") and (self.folder / "config.yaml").exists()

    @rule(fault=faults)
    def start(self, fault: tuple[str, int]) -> None:
        again = ["--resume"] if self.there() else []
        if self.folder.exists() and not again:  # killed before its settings were written
            shutil.rmtree(self.folder)
        self.call([*self.place.start(self.folder), *again, "--set", f"trainer.steps={self.steps}"], fault)

    @precondition(there)
    @rule(fault=faults)
    def resume(self, fault: tuple[str, int]) -> None:
        self.call(["resume", str(self.folder)], fault)

    @precondition(there)
    @rule()
    def another_run_is_refused(self) -> None:
        before = {name: (self.folder / name).read_bytes() for name in self.files()}
        assert self.call([*self.place.start(self.folder), "--resume", "--seed", "1", "--set", f"trainer.steps={self.steps}"]) == 2
        assert before == {name: (self.folder / name).read_bytes() for name in self.files()}

    @precondition(there)
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        names = self.files()
        if names:
            name = data.draw(st.sampled_from(names))
            (self.folder / name).unlink()
            self.damaged.discard(name)

    @precondition(there)
    @rule(name=st.sampled_from(["teacher", "student", "checkpoints", "evaluation"]))
    def lose_a_folder(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self.damaged = {x for x in self.damaged if not x.startswith(f"{name}/")}

    @precondition(there)
    @rule(data=st.data(), how=st.sampled_from(["cut", "changed", "emptied"]))
    def damage_a_file(self, data: st.DataObject, how: str) -> None:
        names = [name for name in self.files() if not name.startswith(".")]
        if names:
            name = data.draw(st.sampled_from(names))
            content = (self.folder / name).read_bytes()
            half = len(content) // 2
            new = {"cut": content[:half], "changed": content[:half] + b"\x00\xff" + content[half + 2 :], "emptied": b""}[how]
            (self.folder / name).write_bytes(new)
            self.damaged.add(name)

    @precondition(there)
    @rule()
    def copy(self) -> None:
        target = self.folder.with_name(f"{self.folder.name}-copy")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.folder, target)
        self.folder = target

    @precondition(there)
    @rule()
    def edit(self) -> None:
        """Other steps of the student: what was made with the former ones may not pass for the result of these."""
        path = self.folder / "config.yaml"
        tree = yaml.safe_load(path.read_text())
        self.steps = STEPS[1 - STEPS.index(self.steps)]
        tree["trainer"]["steps"] = self.steps
        path.write_text(yaml.safe_dump(tree))

    def teardown(self) -> None:
        """Finishes the run; where that is refused, what was named is taken away."""
        if not self.there():
            return
        for _ in range(12):
            if self.call(["resume", str(self.folder)]) == 0:
                try:
                    found = result(self.folder)
                    break
                except ArtifactError as error:  # the run is finished, and what it made was damaged afterwards
                    self.said = str(error)
            self.take_away()
        else:
            raise AssertionError(f"cannot be finished: {self.said}")
        if not same(found, self.place.expected[self.steps]):
            raise AssertionError(f"another result after damage to {sorted(self.damaged)}")
        assert "nothing to resume" in self.said or not list(self.folder.rglob(f"{PARTIAL}*"))  # removed when a process works there
        shutil.rmtree(self.folder)

    def take_away(self) -> None:
        """Removes what the last message names: a file or a folder of the run."""
        names = {part for name in self.files() for part in (name, str(Path(name).parent))} - {"."}
        named = [name for name in names if str(self.folder / name) in self.said]
        assert named, f"nothing of the run is named: {self.said}"
        target = self.folder / max(named, key=len)
        counts["named and taken away"] = counts.get("named and taken away", 0) + 1
        shutil.rmtree(target) if target.is_dir() else target.unlink()


def all_sequences() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=6)
    given = parser.parse_args()
    done = json.loads(STATE.read_text()) if STATE.exists() else {"batches": 0, "sequences": 0, "counts": {}}
    while done["sequences"] < given.sequences:
        chosen = settings(
            max_examples=BATCH,
            stateful_step_count=given.steps,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        before = place().sequences
        run_state_machine_as_test(seed(done["batches"])(RunFolder), settings=chosen)
        done["batches"] += 1
        done["sequences"] += place().sequences - before
        for name, count in counts.items():
            done["counts"][name] = done["counts"].get(name, 0) + count
        counts.clear()
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps(done))
        row = {"sequences": done["sequences"], "steps of each": given.steps, "different ends": 0, **done["counts"]}
        record = {"date": f"{date.today():%Y-%m-%d}", "command": "python -m tests.robustness.stateful", "rows": [row]}
        RESULT.write_text(json.dumps(record, indent=1) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    all_sequences()
