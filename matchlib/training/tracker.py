"""Trackers: programs outside that show what happens in a run. What they are shown has the names of ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from matchlib.errors import ArtifactError, SettingError
from matchlib.io import read_json, write_json
from matchlib.training.alarms import Raised
from matchlib.training.trainer import Callback, Trainer

__all__ = ["TrackedPhase", "Tracker", "TrackerSession", "Tracking", "numbers"]

IDS = "trackers.json"  # of a run: under which names its trackers know it


@dataclass(frozen=True)
class TrackedPhase:
    """What a tracker is told at its start.

    Args:
        folder: of the run.
        phase: ``teacher`` or ``student``; each is a run of its own to the tracker.
        settings: of the run, as ``config.yaml`` holds them.
        step: after which it goes on; what was shown of later steps no longer counts.
        id: what ``TrackerSession.id`` was when the phase was tracked before; empty at first.
    """

    folder: Path
    phase: str
    settings: Mapping[str, Any]
    step: int = 0
    id: str = ""

    @property
    def name(self) -> str:
        """The folder's name and the phase."""
        return f"{self.folder.resolve().name}-{self.phase}"


class TrackerSession(ABC):
    """A connection to a tracker. Any of its methods may raise: that costs a warning, and the tracker is left alone from then on.

    Attributes:
        id: by which the tracker finds the phase again; empty where it needs none.
    """

    id: str = ""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Shows numbers after a step."""

    @abstractmethod
    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows a picture, ``(height, width, 3)`` of uint8."""

    @abstractmethod
    def text(self, name: str, text: str, step: int) -> None:
        """Shows a line, such as an alarm."""

    @abstractmethod
    def close(self) -> None:
        """Ends the connection; everything has been written then."""


class Tracker(ABC):
    """A kind of tracker with its settings. A plugin is a frozen dataclass; what it needs is imported in ``open``.

    Attributes:
        package: that has to be installed.
        extra: of matchlib-torch, which installs it.
    """

    package: ClassVar[str]
    extra: ClassVar[str]

    def check(self) -> None:
        """Refuses a tracker whose package is missing.

        Raises:
            SettingError: naming the package and the extra.
        """
        if find_spec(self.package) is None:
            raise SettingError(
                f"tracker {self.extra!r} needs the package {self.package}, which is not installed; "
                f"install matchlib-torch[{self.extra}], or leave it out of trackers"
            )

    @abstractmethod
    def open(self, phase: TrackedPhase) -> TrackerSession:
        """Returns a connection."""


class Tracking(Callback):
    """Shows a phase to a tracker; the first failure is a warning, and the last that the tracker is asked for.

    Args:
        tracker: opened when there is something to show.
        label: its name, for warnings.
        phase: without ``id``, which is found.
        warn: takes a line.
    """

    def __init__(self, tracker: Tracker, label: str, phase: TrackedPhase, warn: Callable[[str], None]) -> None:
        self.tracker, self.label, self.phase, self.warn = tracker, label, phase, warn
        self.step = self._begin = phase.step
        self._session: TrackerSession | None = None
        self._failed = False

    @property
    def name(self) -> str:
        return f"{type(self).__name__} {self.label}"

    def on_log(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        self.step = trainer.steps_done
        if trainer.strategy.rank == 0:
            self.scalars({key: value for key, value in numbers(row) if key != "step"})

    def on_alarm(self, trainer: Trainer, alarm: Raised) -> None:
        if trainer.strategy.rank == 0:
            self._show(lambda session: session.text("alarms", f"{alarm.name}: {alarm.message}", trainer.steps_done))

    def on_restore(self, trainer: Trainer) -> None:
        self.close()
        self.step = self._begin = trainer.steps_done

    def scalars(self, values: Mapping[str, float]) -> None:
        """Shows numbers after the latest step."""
        self._show(lambda session: session.scalars(values, self.step))

    def picture(self, name: str, image: np.ndarray) -> None:
        """Shows a picture after the latest step."""
        self._show(lambda session: session.picture(name, image, self.step))

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._session is not None:
            self._show(lambda session: session.close())
            self._session = None

    def _show(self, act: Callable[[TrackerSession], None]) -> None:
        if self._failed:
            return
        try:
            self._session = self._session or self._open()
            act(self._session)
        except Exception as error:  # whatever a tracker raises, the run goes on
            session, self._failed, self._session = self._session, True, None
            with suppress(Exception):
                if session is not None:
                    session.close()
            self.warn(f"tracker {self.label} is left out from here on ({type(error).__name__}: {' '.join(str(error).split())[:200]})")

    def _open(self) -> TrackerSession:
        file, key = self.phase.folder / IDS, f"{self.phase.phase}/{self.label}"
        try:
            known = read_json(file)
        except ArtifactError:
            known = {}
        place = TrackedPhase(self.phase.folder, self.phase.phase, self.phase.settings, self._begin, str(known.get(key, "")))
        session = self.tracker.open(place)
        if session.id and session.id != place.id:
            write_json(file, {**known, key: session.id})
        return session


def numbers(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of nested mappings by their paths, with slashes between."""
    for key, value in tree.items():
        full = f"{path}/{key}" if path else key
        if isinstance(value, Mapping):
            yield from numbers(value, full)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield full, float(value)


def flat_settings(tree: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Returns settings by dotted path, as text."""
    result: dict[str, str] = {}
    for key, value in tree.items():
        full = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and value:
            result |= flat_settings(value, full)
        else:
            result[full] = value if isinstance(value, str) else json.dumps(value, default=str)
    return result
