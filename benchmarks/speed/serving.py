"""How long does a student take to answer, in each form that it can be had in?

    python -m benchmarks.speed.serving

Students of digits (their weights do not matter for the time), one evaluation, batches of 1 and 64, one process: ``Pipeline.sample``, the
same compiled or in bfloat16, ``torch.export`` (pt2) and ONNX. Forms are measured in turns; medians, and what 19 of 20 calls stay below.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import matchlib
from benchmarks.record import CACHE, save
from matchlib.training.precision import prepare

PLACE = CACHE / "serving"
NETWORKS = {"mlp": {"name": "mlp", "width": 192, "depth": 3}, "unet": {"name": "unet", "channels": 32}}
FEW = {"teacher.training.steps": 2, "evaluation.draws": 1, "evaluation.samples": 50, "evaluation.metrics": ("frechet-raw",)}
TURNS = 60


def forms(run: Any) -> dict[str, Callable[[int], Any]]:
    """Returns functions of the batch size, by form."""
    import onnxruntime

    plain, compiled, half = (matchlib.load(run) for _ in range(3))
    half.to(dtype=torch.bfloat16)
    prepare(compiled.module, compile="default", frozen=True)
    found: dict[str, Callable[[int], Any]] = {
        "Pipeline.sample": lambda n: plain.sample(n, seed=0),
        "compiled": lambda n: compiled.sample(n, seed=0),
        "bfloat16": lambda n: half.sample(n, seed=0),
    }
    for form in ("pt2", "onnx"):
        shutil.rmtree(PLACE / form, ignore_errors=True)
        matchlib.export(run, form, PLACE / form)
    module = torch.export.load(PLACE / "pt2" / "model.pt2").module()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(PLACE / "onnx" / "model.onnx", options, providers=["CPUExecutionProvider"])

    def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(n, 1, 8, 8), torch.randint(10, (n,))

    def of_pt2(n: int) -> Any:
        with torch.no_grad():
            return module(*inputs(n))

    def of_onnx(n: int) -> Any:
        source, label = inputs(n)
        return session.run(["data"], {"source": source.numpy(), "label": label.numpy()})

    return {**found, "pt2": of_pt2, "onnx": of_onnx}


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, network in NETWORKS.items():
        run = PLACE / name
        shutil.rmtree(run, ignore_errors=True)
        student = matchlib.distill("flow", "digits", steps=2, out=run, settings={**FEW, "teacher.network": network})
        weights = sum(w.numel() for w in student.module.parameters())
        functions = forms(run)
        for batch in (1, 64):
            seconds: dict[str, list[float]] = {form: [] for form in functions}
            for turn in range(TURNS):
                for form, function in functions.items():
                    begin = time.perf_counter()
                    function(batch)
                    if turn > TURNS // 6:
                        seconds[form].append(time.perf_counter() - begin)
            for form, found in seconds.items():
                middle, most = np.quantile(found, [0.5, 0.95])
                rows.append(
                    {
                        "network": name,
                        "weights": weights,
                        "batch": batch,
                        "form": form,
                        "ms": 1e3 * middle,
                        "ms, 19 of 20": 1e3 * most,
                        "samples/s": batch / middle,
                    }
                )
                print(rows[-1], flush=True)
    save("serving", rows)


if __name__ == "__main__":
    main()
