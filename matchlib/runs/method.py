"""What a step of a student's training is, as settings say it."""

from __future__ import annotations

import inspect
from typing import Any

from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
from matchlib.registry import tasks
from matchlib.runs.settings import StudentTraining
from matchlib.training.random import Streams
from matchlib.training.task import Learner, Task

__all__ = ["method_of"]


def method_of(
    trainer: StudentTraining, distillation: Distillation, learners: tuple[Learner, Learner], data: Dataset, streams: Streams, **more: Any
) -> Task:
    """Returns the task that ``trainer.task`` names, of a distillation.

    Args:
        learners: student and critic.
        more: arguments of the task that settings do not say.

    Raises:
        SettingError: it is no task of a distillation, or does not take its settings.
    """
    name, method = trainer.task["name"], {key: value for key, value in trainer.task.items() if key != "name"}
    steps = {"steps": trainer.steps, "critic_steps_per_batch": trainer.critic_steps_per_batch}
    given = {"batch_size": trainer.batch_size, **steps, **more, **method}
    plugin: Any = tasks[name]
    try:
        inspect.signature(plugin).bind(distillation, *learners, data, streams, **given)
    except TypeError as error:
        raise SettingError(f"trainer.task: {name} is no task that trains a student with these settings ({error})") from None
    task: Task = plugin(distillation, *learners, data, streams, **given)
    return task
