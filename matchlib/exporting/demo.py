"""A page to try a generator on: its samples beside the teacher's from the same sources, with their times; it needs gradio."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from matchlib.algebra.records import Batch
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, MatchlibError, SettingError
from matchlib.evaluation.pictures import drawn
from matchlib.runs.artifact import find_artifact
from matchlib.runs.pipeline import Pipeline, load

__all__ = ["Demo", "Shown", "page"]

MOST = 64  # samples at once


@dataclass(frozen=True)
class Shown:
    """Samples of one pipeline.

    Args:
        picture: ``(height, width, 3)`` of uint8.
        text: evaluations and seconds.
    """

    picture: np.ndarray
    text: str


class Demo:
    """The student and the teacher of a run, those of them that there are, ready to be compared.

    Args:
        run: its folder, or one that ``matchlib export --to hub`` wrote.
        device: where they run.
        trust: whether Python code that an artifact names may be run.

    Raises:
        ArtifactError: nothing finished is there.
    """

    def __init__(self, run: str | Path, *, device: str = "cpu", trust: bool = False) -> None:
        folder = Path(run).expanduser()
        alone = find_artifact(folder) is not None
        kinds = [kind for kind in ("student", "teacher") if not alone and find_artifact(folder / kind) is not None]
        found = [load(folder, kind, device, trust=trust) for kind in kinds] if kinds else [load(folder, device=device, trust=trust)]
        self.pipelines: dict[str, Pipeline] = {pipeline.config.kind: pipeline for pipeline in found}
        self.first = found[0]

    @property
    def classes(self) -> int | None:
        """How many classes can be asked for; None without."""
        return self.first.config.network_spec.classes

    @property
    def teacher_steps(self) -> int | None:
        """Steps of the teacher's own sampler; None where there is no teacher."""
        teacher = self.pipelines.get("teacher")
        return None if teacher is None else int(teacher.sampler.steps)

    def show(self, n: int, seed: int, label: int | None = None, steps: int | None = None) -> dict[str, Shown]:
        """Returns samples of every pipeline from the same sources and labels.

        Args:
            n: how many, at most 64.
            seed: of the sources.
            label: a class; None for classes as the data have them.
            steps: of the teacher's sampler; None for its own.

        Raises:
            SettingError: a number does not fit.
        """
        if not 1 <= n <= MOST:
            raise SettingError(f"the number of samples must lie in 1 to {MOST}, got {n}")
        sources = self.first.sources(n, seed=seed)
        labels = sources.label if label is None else torch.full((n,), label, device=self.first.device)
        result = {}
        for kind, pipeline in self.pipelines.items():
            result[kind] = self._shown(kind, self._with_steps(pipeline, steps), replace(sources, label=labels), seed)
        return result

    @staticmethod
    def _with_steps(pipeline: Pipeline, steps: int | None) -> Pipeline:
        """Returns a teacher's pipeline with another number of steps."""
        return pipeline if steps is None or isinstance(pipeline.module, Student) else pipeline.with_steps(steps)

    @staticmethod
    def _shown(kind: str, pipeline: Pipeline, sources: Batch, seed: int) -> Shown:
        n, begin = len(sources.data), time.perf_counter()
        batch = pipeline.sample_batch(n, seed=seed, labels=sources.label, source=sources.source)
        samples = pipeline.decode(batch.data).float().cpu().numpy()
        seconds = time.perf_counter() - begin
        if not np.isfinite(samples).all():
            raise ArtifactError(f"the {kind} generates NaN or infinite values")
        evaluations = f"{pipeline.nfe} evaluation{'s' if pipeline.nfe > 1 else ''}"
        return Shown(drawn({kind: samples}, pipeline.limits), f"{kind}: {evaluations}, {1000 * seconds:,.0f} ms for {n} samples")


def page(demo: Demo, title: str) -> Any:
    """Returns the page as ``gradio.Blocks``, which is to be launched.

    Raises:
        MatchlibError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # a page on this machine tells nobody else of it
    try:
        import gradio
    except ImportError as error:
        raise MatchlibError("a demo needs the package gradio: pip install 'matchlib[demo]'") from error
    kinds, classes, steps = list(demo.pipelines), demo.classes, demo.teacher_steps

    def show(seed: float, n: float, label: str | None, steps: float | None) -> list[Any]:
        chosen = None if label in (None, ANY) else int(str(label))
        shown = demo.show(int(n), int(seed), chosen, None if steps is None else int(steps))
        return [part for kind in kinds for part in (shown[kind].picture, shown[kind].text)]

    with gradio.Blocks(title=title, analytics_enabled=False) as blocks:
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            seed = gradio.Number(0, label="seed", precision=0, minimum=0)
            n = gradio.Slider(1, MOST, 16, step=1, label="samples")
            label = gradio.Dropdown([ANY, *map(str, range(classes or 0))], value=ANY, label="class", visible=classes is not None)
            of_teacher = gradio.Slider(1, 200, min(steps or 1, 200), step=1, label="steps of the teacher", visible=steps is not None)
        button = gradio.Button("Generate", variant="primary")
        outputs = []
        with gradio.Row():
            for kind in kinds:
                with gradio.Column():
                    outputs += [gradio.Image(label=kind, elem_id=f"picture-{kind}"), gradio.Markdown(elem_id=f"text-{kind}")]
        inputs = [seed, n, label, of_teacher]
        button.click(show, inputs, outputs, api_name="generate")
        blocks.load(show, inputs, outputs)
    return blocks


ANY = "as the data have them"
