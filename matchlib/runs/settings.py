"""The settings of a run: one tree, of which every value has a default, a type, a range and its documentation in one place.

A plugin is named by a *spec*, ``{"name": registered name, setting: value, ...}``, or in Python by an object of a registered class.
"""

from __future__ import annotations

import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator, model_serializer, model_validator

from matchlib import adapters
from matchlib.errors import ArtifactError, MatchlibError, SettingError, UnknownNameError, nearest
from matchlib.io import parse_yaml, read_text, write_text
from matchlib.registry import ALL, fields_of
from matchlib.runs.recipes import recipe as read_recipe
from matchlib.settings import Settings
from matchlib.training.settings import EngineSettings, LoRASettings, OnAlarm, TrainerSettings

__all__ = [
    "GIVEN",
    "DataSettings",
    "EvaluationSettings",
    "RunSettings",
    "Spec",
    "StudentSettings",
    "StudentTraining",
    "TeacherSettings",
    "TeacherTraining",
    "from_config",
    "plain",
    "read_yaml",
    "resolve",
    "write_config",
]

GIVEN = "python:"  # begins the name of a teacher or data set that was made in Python

Count = Annotated[int, Ge(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
UpToOne = Annotated[float, Ge(0), Le(1)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]
Axes = Annotated[int, Ge(0), Le(1023)]  # of as many samples as are looked at
Spec = dict[str, Any]
PREFIXES = (*adapters.PREFIXES, "pairs")  # of PREFIX:PATH where a teacher or data set is named


# -- plugins ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plugin:
    """Marks a field of the tree as a spec of a plugin of ``group``."""

    group: str

    def __call__(self, value: Any) -> Any:
        """Returns the spec with each setting of its declared type; an object becomes the spec that describes it."""
        registry = ALL[self.group]
        if value is None:
            return None
        spec = {"name": value} if isinstance(value, str) else registry.describe(value) if is_dataclass(value) else value
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise SettingError(f"a plugin is named by {{name: ..., its settings}} (there are: {', '.join(registry)}), got {value!r}")
        settings = {key: x for key, x in spec.items() if key != "name"}
        return self._complete({"name": registry.canonical(spec["name"]), **typed(self.group, spec["name"], settings)})

    def _complete(self, spec: Spec) -> Spec:
        """Returns a spec with the values of settings that another one decides, so that ``config.yaml`` says them."""
        registry = ALL[self.group]
        linked = getattr(registry[spec["name"]], "linked", ())
        if not linked:
            return spec
        try:
            value = registry.build(spec)
        except MatchlibError:  # outside its domain: whoever builds the plugin says so
            return spec
        return {"name": spec["name"], **{key: getattr(value, key) for key in linked}, **{k: x for k, x in spec.items() if k not in linked}}


def _others_with(group: str, key: str) -> str:
    """Returns a hint that names the plugins of a group that have a setting; empty if none has."""
    registry, names = ALL[group], []
    for name in registry:
        try:
            names += [name] if key in fields_of(registry[name]) else []
        except (MatchlibError, ValueError):  # it cannot be loaded, or has no signature
            continue
    return f"; it is a setting of {', '.join(names[:3])}" if names else ""


def typed(group: str, name: str, settings: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a plugin's settings, each of the type that its constructor declares.

    Args:
        also: further keys that may stand beside the settings, for the hint in an error.

    Raises:
        UnknownNameError: there is no such plugin or setting.
        SettingError: a value of another type.
    """
    accepted = _adapters(group, name)
    for key in settings:
        if key not in accepted:
            there = ", ".join(accepted) or "none"
            hint = _others_with(group, str(key)) or nearest(str(key), [*accepted, *also])
            raise UnknownNameError(f"{group} {name!r} has no setting {key!r} (it has: {there}){hint}")
    result = {}
    for key, value in settings.items():
        try:
            result[key] = accepted[key].validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise SettingError(f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, got {value!r}") from None
    return result


@cache
def _adapters(group: str, name: str) -> dict[str, TypeAdapter[Any]]:
    """A validator for each setting of a plugin: its constructor's keywords that have a default."""
    plugin = ALL[group][name]
    target = plugin.__dict__.get("__init__", plugin) if isinstance(plugin, type) else plugin
    hints = typing.get_type_hints(target, include_extras=True)
    settings = {key: p for key, p in fields_of(plugin).items() if p.default is not p.empty}
    return {key: TypeAdapter(hints.get(key, Any), config={"arbitrary_types_allowed": True}) for key in settings}


class OpenSettings(Settings):
    """A group named after a plugin, whose further keys are settings of that plugin."""

    model_config = {**Settings.model_config, "extra": "allow"}
    group: ClassVar[str]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _check_plugin_settings(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):  # refused as a value where a group is needed
            return values
        known, registry = set(cls.model_fields), ALL[cls.group]
        name = values.get("name", cls.model_fields["name"].default)
        extra = {key: x for key, x in values.items() if key not in known}
        if isinstance(name, str) and name in registry:
            extra = typed(cls.group, name, extra, sorted(known))
        elif extra:
            first = next(iter(extra))
            there = ", ".join(sorted(known))
            raise UnknownNameError(
                f"{first}: {name!r} is no plugin of {cls.group} with settings (there are: {there}){nearest(str(first), known)}"
            )
        return {**{key: x for key, x in values.items() if key in known}, **extra}

    @property
    def options(self) -> dict[str, Any]:
        """The settings of the plugin."""
        return dict(self.model_extra or {})


# -- the tree --------------------------------------------------------------------------------------------------------------


class TimeSettings(Settings):
    """A density of t; what is left out stays as the family has it."""

    t_min: Annotated[float, Ge(0), Le(1)] | None = None
    """Least time."""
    t_max: Annotated[float, Ge(0), Le(1)] | None = None
    """Largest time."""
    log_sigma: tuple[float, Positive] | None = Field(default=None, examples=["[mean, std]"])
    """(mean, standard deviation) of log(sqrt(b^2 + c^2) / a), EDM's P_mean and P_std; null for a uniform density."""

    @model_serializer
    def changes(self) -> dict[str, Any]:
        """Returns what was given: what was not is no part of ``config.yaml`` either, and a time that is null is not given."""
        given = {key: getattr(self, key) for key in self.model_fields_set}
        return {key: value for key, value in given.items() if value is not None or key == "log_sigma"}


class DataSettings(OpenSettings):
    """Which data. Further keys are settings of the registered data set."""

    group: ClassVar[str] = "datasets"
    name: str = "digits"
    """A registered data set, a prepared folder, FILE.npz, FILE.npy, FILE.tar, FILE.parquet, a folder of images, or pairs:FOLDER."""
    labels: bool = True
    """Whether labels that the data have are used."""
    balanced: bool = False
    """Whether training draws every class equally often."""
    flip: bool = False
    """Whether training draws images flipped horizontally half of the time."""


class TrackedTraining(TrainerSettings):
    """A training that trackers may show."""

    trackers: tuple[Annotated[Spec, BeforeValidator(Plugin("trackers"))], ...] = ()
    """What the training is shown to besides the run's own files: tensorboard, wandb, mlflow, trackio, each a name or a spec."""

    @field_validator("trackers", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """Takes a name alone for a list of one."""
        return (value,) if isinstance(value, str) else value


class TeacherTraining(TrackedTraining):
    """How a teacher is trained."""

    steps: Count = 400
    """Optimiser steps."""
    batch_size: Count = 256
    """Samples a step."""
    lr: Positive | None = None
    """Adam's step size; null for one by the width of the network's layers (``learning_rate``)."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Adam's averaging constants."""
    ema: Fraction = 0.999
    """Decay of the averaged weights."""
    label_dropout: Fraction = 0.0
    """Fraction of the samples whose label is left out; guidance needs some, 0.1 is usual."""
    lr_decay: Annotated[float, Ge(0), Le(1)] = 0.5
    """Fraction of the steps, at the end, over which learning rates fall linearly to 0."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""


class TeacherSettings(OpenSettings):
    """The teacher. Further keys are settings of the family."""

    group: ClassVar[str] = "families"
    name: str = "flow"
    """A family, the folder of a finished run, FILE.py:NAME, or PREFIX:PATH for an adapter."""
    coupling: Annotated[Spec | None, BeforeValidator(Plugin("couplings"))] = None
    """Replaces the family's coupling."""
    interpolant: Annotated[Spec | None, BeforeValidator(Plugin("interpolants"))] = None
    """Replaces the family's interpolant."""
    objective: Annotated[Spec | None, BeforeValidator(Plugin("objectives"))] = None
    """Replaces the family's objective."""
    network: Annotated[Spec, BeforeValidator(Plugin("networks"))] = {"name": "mlp"}
    """The network; where the family's teacher is a formula, that of critic and student."""
    sampler: Annotated[Spec | None, BeforeValidator(Plugin("samplers"))] = None
    """How the teacher is sampled; null for the family's own."""
    times: TimeSettings | None = None
    """Density of t in the teacher's training; null for the family's own."""
    sees_source: bool | None = None
    """Whether the field sees the source; null for the family's own choice."""
    guidance: float | None = None
    """w of uncond + w (cond - uncond); null for none, or for that of the run that the teacher is taken from."""
    guidance_interval: tuple[UpToOne, UpToOne] | None = Field(default=None, examples=["[0.1, 0.8]"])
    """Times (least, largest) at which the teacher is guided; null for all, or for those of the run that the teacher is taken from."""
    normalization: tuple[float, Positive] | None = Field(default=None, examples=["[shift, scale]"])
    """(shift, scale) of a teacher made elsewhere, data units = shift + scale * its units; null for the teacher's own statement."""
    examine: bool = True
    """Whether a teacher that was made elsewhere is examined first, as ``matchlib doctor`` does it; mistakes are warnings."""
    training: TeacherTraining = Field(default_factory=TeacherTraining)
    """How it is trained."""


class StudentSettings(OpenSettings):
    """The student. Further keys are settings of the student plugin."""

    group: ClassVar[str] = "students"
    name: str = "onestep"
    """A student plugin, or the folder of a finished run whose student goes on."""
    network: Annotated[Spec | None, BeforeValidator(Plugin("networks"))] = None
    """A network of the student's own; null copies the teacher's with its weights, if it has any."""
    init_from_teacher: bool = False
    """Whether such a network takes those of the teacher's weights that fit by name and shape."""
    axes: Axes | None = None
    """Principal axes of the data along which the student's start has their variance; 0 for plain noise; null for the model's default."""
    lora: LoRASettings | None = None
    """Low-rank adapters on the student's network, which stays frozen otherwise; they are added to its weights when it is saved."""


class StudentTraining(TrackedTraining):
    """How a student is trained; every step of critic or student counts."""

    steps: Count = 3200
    """Optimiser steps of critic and student in all."""
    batch_size: Count = 256
    """Samples a step."""
    critic_steps: Count | None = None
    """Critic steps before each student step; null for 3 where the data have no more than three dimensions, else 1."""
    critic_steps_per_batch: Count = 1
    """Critic steps in a row that see the same generated samples, at other times and with other real data."""
    critic_network: Annotated[Spec | None, BeforeValidator(Plugin("networks"))] = None
    """A network for a critic that starts from scratch; null copies the teacher's with its weights, if it has any."""
    critic_lora: LoRASettings | None = None
    """Low-rank adapters on the critic's network, which stays frozen otherwise."""
    student_lr: Positive | None = None
    """Adam's step size of the student; null for 0.155 over the mean inputs of its units, at most 1e-3, times a factor of the family's."""
    critic_lr: Positive | None = None
    """Adam's step size of the critic; null for 0.155 over the mean inputs of its units, at most 1e-3, times a factor of the family's."""
    student_lr_scale: Positive = 1.0
    """Multiplies the default step size of the student."""
    critic_lr_scale: Positive = 1.0
    """Multiplies the default step size of the critic."""
    betas: tuple[Fraction, Fraction] = (0.0, 0.99)
    """Adam's averaging constants."""
    ema: Fraction = 0.999
    """Decay of the student's averaged weights."""
    extra_ema_decays: tuple[Fraction, ...] = ()
    """Decays of further averages, kept beside the student: ``matchlib.load(RUN, ema=DECAY)``."""
    task: Annotated[Spec, BeforeValidator(Plugin("tasks"))] = {"name": "distillation"}
    """What a step is: the method."""
    times: TimeSettings | None = None
    """Density of t at which student and teacher are compared; null for one by the scales of the data."""
    lr_decay: Annotated[float, Ge(0), Le(1)] = 0.7
    """Fraction of the steps, at the end, over which learning rates fall linearly to 0."""
    adaptive_clip: Annotated[float, Gt(1)] = 3.0
    """Largest norm of a gradient over the running root mean square of those before it; inf for none."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    on_alarm: OnAlarm = "roll-back"
    """On an alarm: warn; stop; or, where lower rates may help, roll back to the last checkpoint that a later measurement found well,
    with half of the learning rates."""
    keep_best_by: str | None = None
    """A metric by which checkpoints are scored, on samples of the averaged student; the run ends with the best. Null: with the last."""


class EvaluationSettings(Settings):
    """How samples are scored."""

    samples: Count | None = None
    """Samples in one score; null for as many as are held out, at most 10,000."""
    draws: Count | None = None
    """Times that so many samples are drawn and scored; null for up to 10, as long as they are 10,000 in all."""
    subset: Annotated[int, Ge(10)] = 2000
    """Samples and training points that metrics use whose cost grows with its square: balls, kernels, optimal transport, nearest points."""
    metrics: tuple[str, ...] | None = Field(default=None, examples=["[frechet]"])
    """Names of metrics; null for all that apply."""
    every: Annotated[int, Ge(0)] = 0
    """Steps between scores of up to 1,000 samples of the student while it is trained, in the log as score/NAME; 0 for none."""
    teacher_steps: tuple[Count, ...] = Field(default=(), examples=["[1, 4, 16]"])
    """Further numbers of steps at which the teacher's sampler is scored, which show what the student's evaluations are worth."""
    extractor: str = "own"
    """Features of Frechet and kernel distances and of balls: own, learned from the data; or FILE.pt (TorchScript) or FILE.pt2
    (torch.export) that maps uint8 images (n, 3, height, width) to (n, k), such as the Inception network of published FIDs."""
    clip_samples: bool = False
    """Whether samples are clipped to the limits of the data first, as a file of 8-bit images does."""


def names_extractor(settings: Mapping[str, Any]) -> bool:
    """Returns whether settings by dotted path, or nested ones, name a file of features."""
    group = settings.get("evaluation")
    return "evaluation.extractor" in settings or (isinstance(group, Mapping) and "extractor" in group)


class RunSettings(Settings):
    """Everything that decides what a run computes, and where."""

    command: Literal["train", "distill"] = "distill"
    """What the run is for: train a teacher, or distil one."""
    data: DataSettings = Field(default_factory=DataSettings)
    """Which data."""
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)
    """The teacher."""
    student: StudentSettings = Field(default_factory=StudentSettings)
    """The student."""
    loss: Annotated[Spec, BeforeValidator(Plugin("losses"))] = {"name": "realuid", "alpha": 2.0, "beta": 2.0, "gamma": 0.5}
    """The distillation loss; by default RealUID extrapolates from the teacher towards the data."""
    trainer: StudentTraining = Field(default_factory=StudentTraining)
    """How the student is trained."""
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    """The scores of student and teacher."""
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Seed of every random stream."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is CUDA where there is one."""
    out: Annotated[str, Field(min_length=1)] | None = None
    """Folder of the run; null for runs/DATE-NAME."""

    @field_validator("out")
    @classmethod
    def _is_path(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError(" must be a path, without null characters")
        return value

    def engine_of(self, phase: str) -> EngineSettings:
        """Returns how the work of a phase, ``teacher`` or ``student``, is done."""
        return (self.teacher.training if phase == "teacher" else self.trainer).engine


# -- layers ----------------------------------------------------------------------------------------------------------------


def plain(settings: Settings) -> dict[str, Any]:
    """Returns settings as nested mappings and lists, the form of ``config.yaml``."""
    return _listed(settings.model_dump())


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(x) for key, x in value.items()}
    return [_listed(x) for x in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Place:
    """Where in the tree a plugin of a group is named: a spec with its default, or a group whose further keys are the plugin's settings."""

    group: str
    default: Mapping[str, Any] | None
    known: frozenset[str] = frozenset()


@cache
def _places() -> dict[tuple[str, ...], Place]:
    """Every place of the tree where a plugin is named."""
    places: dict[tuple[str, ...], Place] = {}

    def walk(kind: type[Settings], path: tuple[str, ...]) -> None:
        for key, field in kind.model_fields.items():
            inner = field.annotation
            plugin = next((m.func for m in field.metadata if isinstance(getattr(m, "func", None), Plugin)), None)
            if plugin is not None:
                places[(*path, key)] = Place(plugin.group, field.default)
            elif isinstance(inner, type) and issubclass(inner, Settings):
                if issubclass(inner, OpenSettings):
                    places[(*path, key)] = Place(inner.group, None, frozenset(inner.model_fields))
                walk(inner, (*path, key))

    walk(RunSettings, ())
    return places


def _lay(base: dict[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
    """Lays ``over`` over ``base``. Naming another plugin drops the settings of the one before; naming none keeps the default's."""
    place = _places().get(path)
    if place is not None and isinstance(over.get("name"), str) and over["name"] != base.get("name"):
        for key in [key for key in base if key not in place.known]:
            del base[key]
    elif place is not None and place.default is not None and not base and "name" not in over:
        base.update(place.default)
    for key, value in over.items():
        if isinstance(value, Mapping):
            node = base.get(key)
            base[key] = dict(node) if isinstance(node, Mapping) else {}
            _lay(base[key], value, (*path, key))
        else:
            base[key] = value


def _unlink(tree: dict[str, Any], layers: Sequence[Mapping[str, Any]]) -> None:
    """Where layers give the first of a plugin's linked settings, forgets those that it decides: alpha given alone sets beta and gamma."""
    for path, place in _places().items():
        given: dict[str, Any] = {}
        for layer in layers:
            given |= _node(layer, path)
        spec = _node(tree, path) or dict(place.default or {})
        name = given.get("name", spec.get("name"))
        registry = ALL[place.group]
        linked = getattr(registry[name], "linked", ()) if isinstance(name, str) and name in registry else ()
        if linked and linked[0] in given and spec.get("name") == name:
            node: Any = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = {key: x for key, x in spec.items() if key not in linked[1:]}


def _node(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Returns the mapping at a path; empty if there is none."""
    node: Any = tree
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return dict(node) if isinstance(node, Mapping) else {}


def _nested(path: str, value: Any) -> dict[str, Any]:
    """Returns ``{a: {b: value}}`` for the path ``a.b``."""
    if not isinstance(path, str) or not path or "" in path.split("."):
        raise SettingError(f"a setting is named by a path with dots, for example trainer.batch_size, got {path!r}")
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def resolve(
    command: str,
    *,
    recipe: str | None = None,
    config: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Returns complete, validated settings: defaults < recipe < config < options < settings.

    Args:
        command: ``train`` or ``distill``.
        recipe: name of a file of ``matchlib/runs/recipes``.
        config: a tree, as ``config.yaml`` holds it; whole or a part.
        options: values by dotted path; None where none was given.
        settings: values by dotted path, as in ``--set``; None is null.

    Raises:
        MatchlibError: naming the setting, what was given and what is accepted.
    """
    if recipe is not None and not isinstance(recipe, str):
        raise SettingError(f"recipe must be a name, got {recipe!r}")
    for argument, given in (("config", config), ("settings", settings)):
        if given is not None and not isinstance(given, Mapping):
            raise SettingError(f"{argument} must be a mapping, got {given!r}")
    tree: dict[str, Any] = {}
    sources: list[list[Mapping[str, Any]]] = [[read_recipe(recipe) if recipe is not None else {}], [config or {}]]
    sources.append([_nested(path, value) for path, value in (options or {}).items() if value is not None])
    sources.append([_nested(path, value) for path, value in (settings or {}).items()])
    for layers in sources:
        for layer in layers:
            _check_keys(layer)
        _unlink(tree, layers)
        for layer in layers:
            _lay(tree, layer)
    for group, kind in (("data", DataSettings), ("teacher", TeacherSettings), ("student", StudentSettings)):
        node = tree.get(group)
        if isinstance(node, dict) and isinstance(node.get("name"), str):
            node["name"] = _absolute(node["name"], ALL[kind.group])
    evaluation = tree.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(file := evaluation.get("extractor"), str) and os.path.exists(os.path.expanduser(file)):
        evaluation["extractor"] = os.path.abspath(os.path.expanduser(file))
    if isinstance(tree.get("out"), str) and tree["out"]:
        tree["out"] = os.path.abspath(os.path.expanduser(tree["out"]))
    return RunSettings(**{**tree, "command": command})


def _absolute(name: str, registry: Mapping[str, Any]) -> str:
    """Makes the path in ``PREFIX:PATH`` or ``FILE.py:NAME`` absolute, if it names no plugin and there is such a file or folder."""
    prefix, colon, rest = name.partition(":")
    if name in registry or prefix == GIVEN.rstrip(":"):
        return name
    if prefix not in PREFIXES:
        prefix, colon, rest = "", "", name
    file, _, attribute = rest.rpartition(":")
    path, end = (file, f":{attribute}") if file.endswith(".py") else (rest, "")
    absolute = os.path.abspath(os.path.expanduser(path))
    return f"{prefix}{colon}{absolute if path and os.path.exists(absolute) else path}{end}"


def _check_keys(tree: Any, where: str = "") -> None:
    """Refuses keys that are no strings, which YAML allows."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if not isinstance(key, str):
                raise SettingError(f"{where or 'the settings'}: keys are names, got {key!r}")
            _check_keys(value, f"{where}.{key}" if where else key)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping of settings.

    Raises:
        SettingError: it is missing or no mapping.
    """
    try:
        tree = parse_yaml(read_text(path))
    except ArtifactError as error:
        raise SettingError(str(error)) from error
    except ValueError as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise SettingError(f"{path} must hold a mapping of settings, got {type(tree).__name__}")
    return tree


def from_config(path: Path) -> RunSettings:
    """Returns the settings of a finished or interrupted run, every one of them validated."""
    tree = read_yaml(path)
    _check_keys(tree)
    try:
        return RunSettings(**tree)
    except MatchlibError as error:
        raise type(error)(f"{path}: {error}") from None


def write_config(folder: Path, settings: RunSettings) -> None:
    """Writes the ``config.yaml`` of a run."""
    write_text(folder / "config.yaml", yaml.safe_dump(plain(settings), sort_keys=False))
