"""The ten registries; each is also an attribute of ``matchlib`` and an entry-point group ``matchlib.<name>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matchlib.registry import Registry

if TYPE_CHECKING:
    from matchlib.algebra.coupling import Coupling
    from matchlib.algebra.interpolant import Interpolant
    from matchlib.algebra.objective import Objective
    from matchlib.distillation.family import Family
    from matchlib.distillation.loss import DistillationLoss
    from matchlib.distillation.student import Student
    from matchlib.sampling.base import Sampler

__all__ = [
    "ALL",
    "couplings",
    "datasets",
    "families",
    "interpolants",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "samplers",
    "students",
]

couplings: Registry[type[Coupling]] = Registry("couplings")
interpolants: Registry[type[Interpolant]] = Registry("interpolants")
objectives: Registry[type[Objective]] = Registry("objectives")
families: Registry[type[Family]] = Registry("families")
students: Registry[type[Student]] = Registry("students")
losses: Registry[type[DistillationLoss]] = Registry("losses")
networks: Registry[Any] = Registry("networks")
datasets: Registry[Any] = Registry("datasets")
samplers: Registry[type[Sampler]] = Registry("samplers")
metrics: Registry[Any] = Registry("metrics")

ALL: dict[str, Registry[Any]] = {
    registry.group: registry
    for registry in (
        couplings,
        interpolants,
        objectives,
        families,
        students,
        losses,
        networks,
        datasets,
        samplers,
        metrics,
    )
}
