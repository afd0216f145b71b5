"""The CUDA path. Skipped aloud where there is no CUDA device, so what is here has not been run by whoever saw it skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import matchlib

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine: the CUDA path is not tested here"),
]


@pytest.mark.parametrize("family", ["flow", "diffusion", "bridge", "interpolant"])
def test_every_family_distils_on_cuda(tmp_path: Path, cli: Callable, small: list[str], family: str) -> None:
    code, _, err = cli("distill", "--teacher", family, "--device", "cuda", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    assert matchlib.load(tmp_path / "run", device="cuda").sample(4).is_cuda


def test_a_generator_gives_the_same_weights_on_both_devices(finished: Path) -> None:
    source = torch.randn(4, 1, 8, 8)
    answers = []
    for device in ("cpu", "cuda"):
        generator = matchlib.load(finished, device=device)
        condition = generator.card.model.condition(source.to(device), torch.arange(4, device=device))
        answers.append(generator.module(source.to(device), condition, generator=torch.Generator(device)).cpu())
    assert torch.allclose(*answers, atol=1e-4)
