"""Trackers: TensorBoard, Weights & Biases, MLflow and trackio. Each phase of a run is a run of its own to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar, Literal

import numpy as np

from matchlib.registry import trackers
from matchlib.training.tracker import TrackedPhase, Tracker, TrackerSession, flat_settings

__all__ = ["MLflow", "TensorBoard", "Trackio", "WandB"]


@trackers.register("tensorboard")
@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in ``RUN/tensorboard/PHASE``, for ``tensorboard --logdir RUN``."""

    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "tensorboard"

    def open(self, phase: TrackedPhase) -> TrackerSession:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(phase.folder / "tensorboard" / phase.phase), purge_step=phase.step + 1)
        rows = [f"| {key} | `{value}` |" for key, value in flat_settings(phase.settings).items()]
        writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]), phase.step)
        return _TensorBoard(writer)


class _TensorBoard(TrackerSession):
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        self.writer.close()


@trackers.register("wandb")
@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases; offline unless asked for, in ``RUN/wandb``, from where ``wandb sync`` sends it.

    Args:
        project: its name there.
        mode: ``offline`` sends nothing; ``online`` needs a login, made before with ``wandb login``.
        entity: the team or user; None for the login's own.
    """

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"
    project: str = "matchlib"
    mode: Literal["offline", "online"] = "offline"
    entity: str | None = None

    def open(self, phase: TrackedPhase) -> TrackerSession:
        import wandb

        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=phase.name,
            group=phase.folder.resolve().name,
            job_type=phase.phase,
            dir=str(phase.folder),
            config=dict(phase.settings),
            id=phase.id or None,
            resume="allow",
            mode=self.mode,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("*", step_metric="step")  # steps may go back, at a roll-back
        return _WandB(run, wandb)


class _WandB(TrackerSession):
    def __init__(self, run: Any, wandb: Any) -> None:
        self.run, self.wandb, self.id = run, wandb, run.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "step": step})

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.run.log({name: self.wandb.Image(image), "step": step})

    def text(self, name: str, text: str, step: int) -> None:
        self.run.log({name: self.wandb.Html(f"<pre>{escape(text)}</pre>", inject=False), "step": step})

    def close(self) -> None:
        self.run.finish()


@trackers.register("mlflow")
@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow, in a file or on a server.

    Args:
        uri: of the tracking server or store; None for that of the environment, or else the file ``RUN/mlflow.db``.
        experiment: its name there.
    """

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"
    uri: str | None = None
    experiment: str = "matchlib"

    def open(self, phase: TrackedPhase) -> TrackerSession:
        import os

        from mlflow.tracking import MlflowClient

        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{phase.folder.resolve() / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        if phase.id:
            return _MLflow(client, phase.id)
        known = client.get_experiment_by_name(self.experiment)
        place = (phase.folder.resolve() / "mlflow").as_uri() if uri.startswith("sqlite:") else None
        experiment = known.experiment_id if known is not None else client.create_experiment(self.experiment, artifact_location=place)
        run = client.create_run(experiment, run_name=phase.name)
        for key, value in flat_settings(phase.settings).items():
            client.log_param(run.info.run_id, key, value[:500])
        return _MLflow(client, run.info.run_id)


class _MLflow(TrackerSession):
    def __init__(self, client: Any, run: str) -> None:
        self.client, self.id = client, run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.client.log_image(self.id, image, key=name, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.id, text, f"{name}/{step:08d}.txt")

    def close(self) -> None:
        self.client.set_terminated(self.id)


@trackers.register("trackio")
@dataclass(frozen=True)
class Trackio(Tracker):
    """trackio, in its folder on this machine; ``trackio show`` opens it.

    Args:
        project: its name there.
        space: of Hugging Face, that it is sent to; None for none.
    """

    package: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "trackio"
    project: str = "matchlib"
    space: str | None = None

    def open(self, phase: TrackedPhase) -> TrackerSession:
        import trackio

        more = {} if self.space is None else {"space_id": self.space}
        name = phase.id or phase.name
        run = trackio.init(self.project, name=name, config=dict(phase.settings), resume="allow", embed=False, **more)
        return _Trackio(run, trackio, name)


class _Trackio(TrackerSession):
    def __init__(self, run: Any, trackio: Any, name: str) -> None:
        self.run, self.trackio, self.id = run, trackio, name

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        self.run.log({name: self.trackio.Image(image)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        self.run.log({name: text}, step=step)

    def close(self) -> None:
        self.run.finish()
