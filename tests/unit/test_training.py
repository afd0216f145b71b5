"""The trainer: resume, interruption, divergence, averages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from matchlib.errors import ArtifactError, DivergedError, SettingError
from matchlib.io import read_tensors
from matchlib.training.checkpoint import Checkpoints, TrainState
from matchlib.training.distributed import SingleProcess
from matchlib.training.ema import EMA
from matchlib.training.log import Log
from matchlib.training.random import Streams
from matchlib.training.task import Learner, Task
from matchlib.training.trainer import Interrupted, Trainer, TrainerSettings


class Toy(Task):
    """Two learners, in turn, on random data."""

    def __init__(self, seed: int = 0, poison: range | None = None) -> None:
        torch.manual_seed(seed)
        self.learners = {"left": Learner(nn.Linear(3, 3), 1e-2), "right": Learner(nn.Linear(3, 3), 1e-2, ema=0.5)}
        self.size = 4
        self.streams, self.poison = Streams(seed, torch.device("cpu")), poison

    def learner(self, step: int) -> str:
        return "left" if step % 3 else "right"

    def loss(self, step: int, rows: int) -> torch.Tensor:
        x = torch.randn(rows, 3, generator=self.streams("x", step))
        loss = self.learners[self.learner(step)].module(x).square().mean()
        return loss * float("nan") if self.poison is not None and step in self.poison else loss


def fit(folder: Path | None, steps: int = 20, stop_at: int | None = None, **kwargs: object) -> dict[str, nn.Module]:
    toy = Toy(**kwargs)  # type: ignore[arg-type]
    count = iter(range(10**6))
    trainer = Trainer(
        toy,
        TrainerSettings(steps, warmup=3, lr_decay=0.5, adaptive_clip=1.2, log_every=4, checkpoint_every=5),
        phase="toy",
        checkpoints=Checkpoints(folder / "checkpoints", "toy") if folder else None,
        log=Log(folder / "metrics.jsonl" if folder else None),
        stop=lambda: stop_at is not None and next(count) + 1 == stop_at,
    )
    return trainer.fit()


def weights(modules: dict[str, nn.Module]) -> list[torch.Tensor]:
    return [w for name in sorted(modules) for w in modules[name].parameters()]


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7, 13, 19])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    straight = weights(fit(None))
    with pytest.raises(Interrupted, match=f"after step {stop_at} of 20"):
        fit(tmp_path, stop_at=stop_at)
    resumed = weights(fit(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20


def test_a_damaged_checkpoint_is_an_error_that_names_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, stop_at=12)
    last = sorted((tmp_path / "checkpoints").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"toy-00000012.*the last good one is .*toy-00000010"):
        fit(tmp_path)


def test_a_checkpoint_of_other_networks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, stop_at=5)
    toy = Toy()
    toy.learners = {"left": Learner(nn.Linear(2, 2)), "right": Learner(nn.Linear(3, 3))}
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        Trainer(toy, TrainerSettings(9), phase="toy", checkpoints=Checkpoints(tmp_path / "checkpoints", "toy")).fit()


def test_divergence_stops_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 16 of toy.*toy-00000015\.safetensors"):
        fit(tmp_path, poison=range(10, 99))
    ten, fifteen = (read_tensors(tmp_path / "checkpoints" / f"toy-000000{step}.safetensors")[0] for step in (10, 15))
    assert all(torch.equal(ten[key], fifteen[key]) for key in ten if "/module/" in key or "/optimiser/" in key)


def test_a_turn_without_a_finite_gradient_is_left_out_and_counted(tmp_path: Path) -> None:
    made = weights(fit(tmp_path, poison=range(7, 9)))
    assert all(torch.isfinite(w).all() for w in made)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("skipped/left") for row in rows] == [None, 1, 2, 2, 2]
    assert all(math.isfinite(row["loss/left"]) for row in rows)


def test_the_seed_decides() -> None:
    one, same, other = (weights(fit(None, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_streams_are_independent_of_each_other() -> None:
    streams = Streams(0, torch.device("cpu"))
    draws = [torch.randn(3, generator=streams(name, step)) for name in ("a", "b") for step in (0, 1)]
    assert len({tuple(x.tolist()) for x in draws}) == 4
    assert torch.equal(torch.randn(3, generator=streams("a", 0)), draws[0])


def test_an_average_of_constant_weights_is_those_weights() -> None:
    module = nn.Linear(2, 2)
    ema = EMA(module, [0.9])
    before = [w.clone() for w in module.parameters()]
    with torch.no_grad():
        for w in module.parameters():
            w.add_(1.0)
    for _ in range(500):
        ema.update()
    assert all(torch.allclose(w, b + 1) for w, b in zip(ema.copy().parameters(), before, strict=True))


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": 5, "lr_decay": 2.0},
        {"steps": 5, "max_grad_norm": 0.0},
        {"steps": 5, "adaptive_clip": 1.0},
        {"steps": 5, "log_every": 0},
    ],
)
def test_settings_outside_their_domain_are_refused(bad: dict) -> None:
    with pytest.raises(SettingError):
        TrainerSettings(**bad)


def judged(folder: Path, values: dict[int, float], steps: int = 20, stop_at: int | None = None) -> tuple[dict[str, nn.Module], list[str]]:
    """A training whose checkpoints are judged as is said."""
    said: list[str] = []
    count = iter(range(10**6))
    trainer = Trainer(
        Toy(),
        TrainerSettings(steps, warmup=3, checkpoint_every=5),
        phase="toy",
        checkpoints=Checkpoints(folder / "checkpoints", "toy", keep=1),
        stop=lambda: stop_at is not None and next(count) + 1 == stop_at,
        say=said.append,
        judge=lambda modules: values[trainer.step],
    )
    return trainer.fit(), said


def test_the_best_checkpoint_is_kept_and_is_what_a_training_ends_with(tmp_path: Path) -> None:
    best, said = judged(tmp_path, {5: 3.0, 10: 1.0, 15: 2.0, 20: 4.0})
    assert said == ["toy: the checkpoint after step 10 was judged best (1), and is what is kept"]
    assert [file.name for file in sorted((tmp_path / "checkpoints").iterdir())] == ["toy-00000010.safetensors", "toy-00000020.safetensors"]
    last, _ = judged(tmp_path / "last", {5: 3.0, 10: 2.0, 15: 1.5, 20: 1.0})
    early = Trainer(Toy(), TrainerSettings(20, warmup=3))
    for _ in range(10):
        early._turn()
    assert all(torch.equal(a, b) for a, b in zip(weights(best), weights(early._averaged()), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(best), weights(last), strict=True))


def test_what_was_best_is_known_after_an_interruption(tmp_path: Path) -> None:
    values = {5: 3.0, 10: 1.0, 12: 0.5, 15: 2.0, 20: 4.0}  # the one of the interruption is not judged
    straight, _ = judged(tmp_path / "straight", values)
    with pytest.raises(Interrupted):
        judged(tmp_path / "parted", values, stop_at=12)
    resumed, said = judged(tmp_path / "parted", values)
    assert len(said) == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(straight), weights(resumed), strict=True))


def _stepped(gradients: list[float], surge: float) -> list[float]:
    """How far a weight moves at each step, in units of the rate."""
    weight = nn.Parameter(torch.zeros(5))
    module = nn.Module()
    module.weight = weight
    state, moved = TrainState(Learner(module, betas=(0.0, 0.99)), SingleProcess()), []
    for size in gradients:
        before, weight.grad = weight.detach().clone(), torch.full((5,), size)
        state.step(1e-3, math.inf, surge)
        moved.append((weight.detach() - before).abs().max().item() / 1e-3)
    return moved


def test_a_surge_of_the_gradient_moves_weights_no_further_than_it_may() -> None:
    """Adam steps by s / sqrt(beta_2 + (1 - beta_2) s^2) along a gradient s times the steady ones before: 1 for 1, toward 10 for a surge."""
    for surge, largest in ((math.inf, 10.0), (3.0, 3 / math.sqrt(0.99 + 0.01 * 9))):
        moved = _stepped([1.0] * 300 + [1e4], surge)
        assert moved[299] == pytest.approx(1.0, rel=1e-3)
        assert moved[300] == pytest.approx(largest, rel=0.03)


def test_what_is_usual_grows_with_gradients_that_stay_large_and_forgets_what_is_not_finite() -> None:
    """A lasting growth is let through before long; a gradient that is zero at first or not finite does not spoil what is usual."""
    lasting = _stepped([1.0] * 300 + [100.0] * 300, 3.0)
    assert lasting[-1] == pytest.approx(1.0, rel=0.1)
    assert _stepped([0.0] * 10 + [1.0] * 5, 3.0)[10] > 1
    surge = 3 / math.sqrt(1 + 8 * 0.01 / (1 - 0.99**52))  # of the 52nd step that counts
    for bad in (math.nan, 1e38):  # the second is finite, its norm is not
        assert _stepped([1.0] * 50 + [bad, 1.0, 1e4], 3.0)[50:] == [0.0, pytest.approx(1.0, rel=1e-3), pytest.approx(surge, rel=1e-3)]
