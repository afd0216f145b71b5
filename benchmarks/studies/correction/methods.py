"""The methods that are compared: how a student is made of a weak teacher and all of the data."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.studies.correction.alternatives import BUDGET, UID_CYCLE, adversarial, affordable_steps, further, refined, then
from benchmarks.studies.correction.common import Method, student

__all__ = ["METHODS", "ONLY"]

UID: dict[str, Any] = {"loss": {"name": "uid"}}
GUARDED: dict[str, Any] = {**UID, "trainer.on_alarm": "roll-back", "trainer.checkpoint_every": 100}  # with the recipe's policy
LIMIT: dict[str, Any] = {"loss": {"name": "realuid", "alpha": math.inf, "beta": math.inf, "gamma": 0.5}}

METHODS: dict[str, Method] = {
    "uid": student(**UID),
    "uid unlimited": student(**UID, **{"trainer.adaptive_clip": math.inf}),
    "uid followed": student(**UID, **{"trainer.critic_lr_scale": 2.0}),  # with the recipe's critic rate
    "published": student(**GUARDED | {"loss": {"name": "realuid", "alpha": 0.94, "beta": 0.96}}),
    "default": student(),  # what `matchlib distill` does when nothing is said
    "correct": student(recipe="correct"),
    "limit": student(recipe="correct", **LIMIT),
    # at the recipe's cost
    "uid longer": student(**GUARDED, **{"trainer.steps": affordable_steps(BUDGET, UID_CYCLE)}),
    "further": further(**GUARDED),
    "refined": refined(**GUARDED),
    "head": adversarial(**GUARDED),
    "then": then(GUARDED, {"recipe": "correct"}),
}

ONLY = {"default": ("good",), "uid unlimited": ("stopped early",)}  # the kinds that a method is tried on, if not all
