"""Teachers of a run: described before they are trained, or taken from a finished run or a Python file."""

from __future__ import annotations

import runpy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from matchlib.algebra.model import MatchingModel
from matchlib.data.dataset import Dataset
from matchlib.distillation.family import HIGH_NOISE, Defaults, Family
from matchlib.errors import ArtifactError, IncompatibleError, SettingError, UnknownNameError, nearest
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.registry import Registry, couplings, families, interpolants, objectives, samplers
from matchlib.runs.artifact import ArtifactConfig, build_field, dataset_of, load_artifact, times_of
from matchlib.runs.settings import DataSettings, RunSettings, Spec, TeacherSettings, from_tree

__all__ = [
    "card_of",
    "check_guidance",
    "data_piece",
    "fresh_teacher",
    "python_teacher",
    "recipe_of",
    "signature_of",
    "teacher_and_data",
    "teacher_card",
    "teacher_of_run",
]


def data_piece(data: DataSettings) -> dict[str, Any]:
    """Returns what a card records of the data's name."""
    return {"name": data.name, "options": data.options, "labels": data.labels, "balanced": data.balanced}


def family_of(settings: TeacherSettings) -> Family:
    """Returns the family that the settings name, with its options."""
    return families.build({"name": settings.name, **settings.options}, also_accepted=[f.name for f in fields(settings)])


def recipe_of(settings: TeacherSettings, card: ArtifactConfig, *, paired: bool) -> Defaults:
    """Returns the recipe of the teacher's family; for a teacher from a run, of the family that the run names."""
    if settings.name in families:
        return family_of(settings).defaults(paired=paired)
    config = Path(settings.name) / "config.yaml"
    if config.exists():
        made: TeacherSettings = from_tree(yaml.safe_load(config.read_text(encoding="utf-8"))).teacher
        if made != settings:
            return recipe_of(made, card, paired=paired)
    return Defaults(samplers.build(card.sampler), times=None if paired else HIGH_NOISE)


def teacher_card(settings: RunSettings, dataset: Dataset) -> ArtifactConfig:
    """Returns the card of the teacher that a family makes for the data."""
    t = settings.teacher
    model = _model(t, dataset)
    sampler = family_of(t).defaults(paired=dataset.paired).sampler if t.sampler is None else samplers.build(t.sampler)
    return ArtifactConfig(
        kind="teacher",
        network=dict(family_of(t).network(t.network)),
        signature=signature_of(dataset, model),
        model=model,
        moments=dataset.moments(model.coupling),
        sampler=samplers.describe(sampler),
        data=data_record(settings.data, dataset),
        seed=settings.seed,
        guidance=1.0 if t.guidance is None else t.guidance,
        label_dropout=t.training.label_dropout,
    )


def _model(settings: TeacherSettings, dataset: Dataset) -> MatchingModel:
    """Returns the family's model with the pieces that the settings replace."""
    model = family_of(settings).model(paired=dataset.paired)
    pieces: dict[str, tuple[Registry[Any], Spec | None]] = {
        "coupling": (couplings, settings.coupling),
        "interpolant": (interpolants, settings.interpolant),
        "objective": (objectives, settings.objective),
    }
    changes: dict[str, Any] = {name: registry.build(spec) for name, (registry, spec) in pieces.items() if spec is not None}
    if settings.times is not None:
        changes["times"] = times_of({**asdict(model.times), **settings.times})
    if settings.sees_source is not None:
        changes["sees_source"] = settings.sees_source
    model = replace(model, **changes)
    if model.coupling.reads_source and not dataset.paired:
        raise IncompatibleError(
            f"coupling {couplings.name_of(model.coupling)!r} reads a source from the data, but {dataset.name} has none; "
            "use digits-restore, an npz with an array 'source', or another coupling"
        )
    return model


def card_of(teacher: Teacher, dataset: Dataset, settings: RunSettings) -> ArtifactConfig:
    """Describes a teacher made in Python; its network is named in the card only if it is a registered one."""
    if teacher.normalization is not None:
        dataset = dataset.normalized_as(*teacher.normalization)
    own = {"name": "ode"} if teacher.defaults is None else samplers.describe(teacher.defaults.sampler)
    sampler = own if settings.teacher.sampler is None else settings.teacher.sampler
    return ArtifactConfig(
        kind="teacher",
        network=getattr(teacher.field, "spec", {"name": None}),
        signature=signature_of(dataset, teacher.model),
        model=teacher.model,
        moments=teacher.moments,
        sampler=samplers.describe(samplers.build(sampler)),
        data=data_record(settings.data, dataset),
        seed=settings.seed,
        guidance=teacher.guidance,
        label_dropout=None,  # not known
    )


def data_record(data: DataSettings, dataset: Dataset) -> dict[str, Any]:
    """Returns what a card records of the data: name, normalisation, limits and the law of the labels."""
    label, shares = dataset.train.label, None
    if dataset.classes is not None and label is not None:
        shares = (torch.bincount(label, minlength=dataset.classes).double() / len(label)).tolist()
    numbers = {"shift": dataset.shift, "scale": dataset.scale, "limits": list(dataset.limits), "label_shares": shares}
    return data_piece(data) | numbers


def signature_of(dataset: Dataset, model: MatchingModel) -> NetworkSpec:
    """Returns what a network for the data and the model must accept."""
    label = dataset.train.label
    label_shape = tuple(label.shape[1:]) if label is not None and dataset.classes is None else None
    return NetworkSpec(dataset.shape, dataset.classes, model.sees_source, label_shape, len(model.objective.heads))


def check_guidance(card: ArtifactConfig) -> None:
    """Refuses guidance of a teacher that cannot be asked without labels.

    Raises:
        IncompatibleError: there are no labels, or none was ever left out.
    """
    if card.guidance == 1.0:
        return
    if card.signature.classes is None and card.signature.label_shape is None:
        raise IncompatibleError(f"guidance {card.guidance:g} needs a teacher with labels, and this one has none")
    if card.label_dropout == 0:
        raise IncompatibleError(
            f"guidance {card.guidance:g} needs a teacher that was trained with dropped labels: --set teacher.training.label_dropout=0.1"
        )


def fresh_teacher(card: ArtifactConfig, seed: int) -> Teacher:
    """Returns an untrained teacher of a card; the seed decides its weights."""
    torch.manual_seed(seed)  # the global generator is used for initial weights and nothing else
    return Teacher(build_field(card.network, card.signature, card.model, card.moments), card.model, card.moments, card.guidance)


def python_teacher(name: str) -> Teacher | None:
    """Returns the teacher that ``FILE.py:NAME`` stands for, a Teacher or a function that returns one; None for a name of another form.

    Raises:
        CardError: the file is missing or fails.
        UnknownNameError: it has no such name.
        SettingError: what it names is no teacher.
    """
    path, colon, attribute = name.rpartition(":")
    if not colon or not path.endswith(".py"):
        return None
    if not Path(path).is_file():
        raise ArtifactError(f"there is no file {path}, of which {attribute!r} is to be the teacher")
    try:
        names = runpy.run_path(path)
    except Exception as error:
        raise ArtifactError(f"{path} fails: {type(error).__name__}: {error}") from error
    if attribute not in names:
        known = [key for key in names if not key.startswith("_")]
        raise UnknownNameError(f"{path} defines no {attribute!r}{nearest(attribute, known)}")
    found = names[attribute]
    teacher = found if isinstance(found, Teacher) else found() if callable(found) else None
    if not isinstance(teacher, Teacher):
        raise SettingError(f"{name} must be a matchlib.Teacher, or a function without arguments that returns one, got {found!r}")
    return teacher


def _bundle_of(name: str, beside: str) -> tuple[ArtifactConfig, Teacher]:
    """Loads the teacher of a run or of a bundle; ``beside`` says what else the name could have been."""
    place = Path(name) / "teacher" if (Path(name) / "teacher").is_dir() else Path(name)
    if not (place / "card.json").exists():
        raise UnknownNameError(f"teacher {name!r} is {beside or 'not '}the folder of a finished run{nearest(name, families)}")
    card, teacher = load_artifact(place)
    if not isinstance(teacher, Teacher):
        raise ArtifactError(f"{place} holds a student, not a teacher")
    return card, teacher


def teacher_of_run(name: str, dataset: Dataset, guidance: float | None = None) -> tuple[ArtifactConfig, Teacher]:
    """Loads the teacher of a finished run, with the guidance that is asked for.

    Raises:
        UnknownNameError: there is no such run.
        IncompatibleError: the teacher is for other data.
    """
    card, teacher = _bundle_of(name, f"neither a family ({', '.join(families)}) nor ")
    wanted = signature_of(dataset, card.model)
    if card.signature != wanted:
        raise IncompatibleError(
            f"the teacher of {name} was made for events of shape {card.signature.shape} with {card.signature.classes or 'no'} classes, "
            f"but {dataset.name} has shape {wanted.shape} and {wanted.classes or 'no'} classes (data.labels=false leaves labels out)"
        )
    if card.model.coupling.reads_source and not dataset.paired:
        raise IncompatibleError(f"the teacher of {name} starts from a source that is data, but {dataset.name} has none")
    if guidance is not None:
        card = replace(card, guidance=guidance)
    teacher.guidance = card.guidance
    return card, teacher


def teacher_and_data(name: str, data: str | None) -> tuple[Teacher, Dataset]:
    """Returns the teacher of a run or of ``FILE.py:NAME``, and the data it is for.

    Args:
        data: registered set or path; None for what the run was made from.

    Raises:
        SettingError: a teacher made in Python was given no data.
    """
    teacher = python_teacher(name)
    if teacher is not None:
        if data is None:
            raise SettingError(f"{name} does not say which data it is for: give --data")
        return teacher, dataset_of(data_piece(DataSettings(name=data)))
    card, loaded = _bundle_of(name, "")
    return loaded, dataset_of(card.data if data is None else {**card.data, "name": data, "options": {}})
