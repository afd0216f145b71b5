"""Wrong inputs made by program end in one line, and lose no file; ``make fuzz`` tries them by the thousand."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.robustness.generator import KINDS, cases, template
from tests.robustness.harness import run

SEED = 1  # another than that of ``make fuzz``
COUNTS = {"set": 30, "config": 20, "python": 30, "run file": 15, "arrays": 15, "images": 15, "option": 25, "prepared": 25}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    template(folder / "template")
    return folder


@pytest.mark.parametrize("kind", list(KINDS))
def test_wrong_inputs_end_in_one_line_and_lose_no_file(base: Path, kind: str) -> None:
    failed = []
    for case in islice(cases(kind, SEED), COUNTS[kind]):
        verdict = run(case, base / "template", base / "folder")
        if verdict.faults:
            failed.append(f"{case.name[:80]!r}: {verdict.faults} {verdict.err.strip()[-200:]}")
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.runs
def test_a_runs_folder_survives_what_happens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of the sequences that ``python -m tests.robustness.stateful`` tries by the thousand."""
    from tests.robustness.stateful import RunFolder

    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")  # put back afterwards
    chosen = settings(
        max_examples=25, stateful_step_count=6, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(RunFolder, settings=chosen)
