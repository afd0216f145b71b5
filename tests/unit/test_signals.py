"""Whatever asks a command to end is heard, soon, and changes no result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import matchlib
from matchlib_cli.signals import Stop, interruptible, listening

MATCHLIB = [sys.executable, "-m", "matchlib_cli"]
RUN = [
    "--data", "moons", "--set", "teacher.network={name: mlp, width: 8, depth: 1}", "--set", "teacher.training.batch_size=16",
    "--set", "trainer.batch_size=16", "--set", "trainer.log_every=10", "--set", "teacher.training.log_every=10",
    "--set", "teacher.training.steps=150", "--set", "trainer.steps=150", "--set", "evaluation.draws=1",
    "--set", "evaluation.metrics=[frechet-raw]",
]  # fmt: skip


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_listening_asks_at_the_first_signal_and_interrupts_at_the_second(number: signal.Signals) -> None:
    stop = Stop()
    assert not stop  # somebody looks at it
    outside = signal.signal(number, signal.default_int_handler)  # whoever runs the tests may let them ignore it
    try:
        with listening(stop):
            os.kill(os.getpid(), number)
            assert stop
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
                time.sleep(0.1)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_signal_interrupts_at_once_before_anybody_looks() -> None:
    """A command that still imports and builds has nothing to lose, and would hear of the request seconds later."""
    stop = Stop()
    outside = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with listening(stop), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        assert not stop
    finally:
        signal.signal(signal.SIGTERM, outside)


def test_listening_leaves_a_signal_ignored_that_nohup_ignores() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class Enough(Exception):
    pass


def test_sample_batch_can_be_interrupted_between_evaluations_and_gives_equal_samples(finished: Path) -> None:
    """However often it is asked, and wherever it was interrupted before, the samples are those of an undisturbed call."""
    pipeline = matchlib.load(finished, "teacher")
    expected = pipeline.sample_batch(5, seed=3).data
    asked = []
    assert torch.equal(pipeline.sample_batch(5, seed=3, on_evaluation=lambda: asked.append(1)).data, expected)
    assert len(asked) == pipeline.nfe == 50

    def enough() -> None:
        asked.append(1)
        if len(asked) == 60:
            raise Enough

    with pytest.raises(Enough):
        pipeline.sample_batch(5, seed=3, on_evaluation=enough)
    assert torch.equal(pipeline.sample_batch(5, seed=3).data, expected)


@pytest.mark.runs
def test_closed_stdout_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    """``matchlib distill | head -1``: nobody reads any more, so the run stops where it can go on."""
    run = tmp_path / "run"
    command = [*MATCHLIB, "distill", "--out", str(run), *RUN, "--set", "trainer.steps=100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path / "cache"))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert err.startswith("matchlib: error: interrupted after step") and err.count("\n") == 1
    assert list((run / "checkpoints").iterdir())


# -- every phase -------------------------------------------------------------------------------------------------------

SOON = 2.0  # seconds
PHASES = {  # what is asked for, and what is printed when it has begun
    "features": (["--data", "digits", "--set", "teacher.training.steps=2", "--set", "trainer.steps=2"], "learning features"),
    "teacher": ([*RUN, "--set", "teacher.training.steps=1000000"], "teacher 10/"),
    "student": ([*RUN, "--set", "trainer.steps=1000000"], "student 10/"),
    "sampling": (["--data", "digits", "--set", "teacher.training.steps=2", "--set", "trainer.steps=2"], "sampling and scoring"),
    "measuring": (["--data", "digits", "--time", "5m"], "time: measuring"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("phase", list(PHASES))
@pytest.mark.parametrize("delay", [0.0, 0.4, 1.1])
def test_signal_is_heard_soon_in_every_phase(tmp_path: Path, phase: str, number: signal.Signals, delay: float) -> None:
    options, sign = PHASES[phase]
    command = [*MATCHLIB, "distill", "--out", str(tmp_path / "run"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path / "cache"))
    assert process.stdout is not None
    for line in process.stdout:
        if sign in line:
            break
    else:
        pytest.fail(f"no {sign!r}")
    time.sleep(delay)
    if process.poll() is not None:
        pytest.skip("it was done")
    begin = time.perf_counter()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    seconds = time.perf_counter() - begin
    print(f"{phase} {number.name} after {delay} s: {seconds:.2f} s, exit {process.returncode}")
    assert process.returncode in (0, 130)  # 0 where it was about to end
    assert "Traceback" not in err
    assert seconds < SOON
    cached = list((tmp_path / "cache").rglob(".partial-*"))
    assert not cached
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        load_file(file)
