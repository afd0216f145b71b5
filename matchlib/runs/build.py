"""From settings to components: everything is built once, and whatever can be refused is refused here, before a folder is made."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matchlib import adapters
from matchlib.algebra.convert import view
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.distillation.defaults import Defaults, learning_rate
from matchlib.distillation.family import Family
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.start import GaussianStart, starts_from_noise
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, ConversionError, IncompatibleError, SettingError, UnknownNameError, nearest
from matchlib.evaluation.doctor import check_answer, guess_normalization
from matchlib.evaluation.features import FileFeatures
from matchlib.evaluation.score import OWN
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.sampler import Sampler
from matchlib.fields.teacher import Teacher
from matchlib.registry import codecs, couplings, families, interpolants, losses, networks, objectives, samplers, students
from matchlib.runs.artifact import (
    ArtifactConfig,
    DataConfig,
    Spec,
    build_field,
    build_student,
    find_artifact,
    load_artifact,
    read_config,
)
from matchlib.runs.checks import check_batches, check_evaluation, check_guidance, check_method, check_trackers, warn_of_idle_settings
from matchlib.runs.components import Components, StudentComponents
from matchlib.runs.explain import cautioned, explained
from matchlib.runs.settings import DataSettings, RunSettings, StudentSettings, TeacherSettings, TimeSettings, plain

__all__ = [
    "GIVEN",
    "NOT_OF_WEIGHTS",
    "build",
    "dataset_of_settings",
    "device_of",
    "names_code",
    "open_teacher",
    "settings_digest",
    "sized",
    "sizes_of",
]

GIVEN = "python:"  # begins the name of a teacher or data set that was made in Python


logger = logging.getLogger("matchlib")
# settings that change no weights, as long as a training goes back to no checkpoint
NOT_OF_WEIGHTS = ("log_every", "checkpoint_every", "keep_last", "monitor_every", "trackers")
SAME_UNITS = 0.02  # by which shift and scale may differ, as where data have grown
OF_TRAINING = ("coupling", "interpolant", "objective", "times", "sees_source")  # settings of a teacher that its training uses up
UNSTATED = (
    "the teacher does not state its normalization, and its answers fit none clearly, so that of the data is taken: data = %.6g + %.6g * "
    "its units; if it was trained on others, such as [-1, 1], state it (teacher.normalization, or normalization= of the Teacher)"
)
FOUND = (
    "the teacher does not state its normalization; its answers fit data = %.6g + %.6g * its units, which is taken (teacher.normalization)"
)

NARROW = (
    "where the teacher's samples start, t = %.3g, the data weigh %.3g times the path's noise, and a start from the source leaves them out: "
    "samples will vary too little and be off; take a path with more noise there (teacher.interpolant), or hide the source "
    "(teacher.sees_source=false)"
)
STRETCHED = (
    "the student of %s has units of its own, data = %.4g + %.4g * units, and the teacher's are %.4g + %.4g * units: its samples begin "
    "stretched by %.3g, which training has to undo; a teacher in the same units, such as that of its run, would not"
)
UNLABELLED = "the teacher takes no labels, and neither will its student; those of the data are for scores alone"


def build(
    settings: RunSettings,
    *,
    data: Dataset | None = None,
    teacher: Teacher | None = None,
    trust: bool = False,
    own: Path | None = None,
    opens_extractor: bool = False,
) -> Components:
    """Returns the components of a run. Nothing is trained or written.

    Args:
        data, teacher: made in Python, in place of those that the settings name.
        trust: whether Python code that the settings name may be run.
        own: folder of the teacher of a run that has one: its units are taken, also where the data have changed since, and it stands for
            another run's teacher that is not there any more.
        opens_extractor: whether the network of ``evaluation.extractor`` is tried now; it runs code, so whoever named it must be trusted.

    Raises:
        MatchlibError: the settings cannot work.
    """
    try:
        built = _build(settings, data, teacher, trust, own)
    except ConversionError as error:
        raise explained(error) from None
    if opens_extractor and settings.evaluation.extractor != OWN:
        FileFeatures(Path(settings.evaluation.extractor), built.data, torch.device("cpu"))
    return built


def _build(settings: RunSettings, data: Dataset | None, teacher: Teacher | None, trust: bool, own: Path | None) -> Components:
    device_of(settings.device)
    dataset = dataset_of_settings(settings.data, data)
    if dataset.codec is not None:
        dataset.decode(dataset.held_out.data[:1])  # pictures and scores need it when everything is trained
    config, module, finished = _teacher(settings, dataset, teacher, trust, own)
    dataset = dataset.normalized_as(config.data.shift, config.data.scale)
    check_guidance(config)
    sampler: Sampler = samplers.build(config.sampler)
    sampler.check(config.model)
    if config.model.sees_source and (ratio := config.model.data_at_start) > 0.5:
        logger.warning(NARROW, config.model.times.t_max, ratio)
    check_evaluation(settings, config, dataset)
    check_batches(settings, config.model.coupling, trains_teacher=not finished)
    check_trackers(settings)
    if finished:
        check_answer(module, dataset)
    parts = _distillation(settings, config, module, dataset, trains=not finished, trust=trust) if settings.command == "distill" else None
    built = Components(dataset, config, module, finished, parts)
    if parts is not None:
        check_method(settings, built, parts)
    warn_of_idle_settings(settings, built)
    return built


def device_of(name: str) -> torch.device:
    """Returns the device that a setting names; ``auto`` is CUDA where there is one.

    Raises:
        SettingError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("tensors on meta hold no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0][:120]
        raise SettingError(f"device {name!r} is not available here (auto, cpu, cuda or cuda:N): {why}") from error
    return device


def settings_digest(settings: RunSettings, phase: str) -> str:
    """Returns a digest of the settings that a phase's result depends on.

    Args:
        phase: ``teacher`` or ``student``.
    """
    tree = plain(settings)
    groups = ("data", "teacher", "seed") if phase == "teacher" else ("data", "teacher", "student", "loss", "trainer", "seed")
    chosen = {key: copy.deepcopy(tree[key]) for key in groups}
    del chosen["teacher"]["examine"]
    for training in (chosen["teacher"]["training"], chosen.get("trainer", {})):
        for key in ("engine", *NOT_OF_WEIGHTS):
            training.pop(key, None)
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


# -- data ------------------------------------------------------------------------------------------------------------------


def dataset_of_settings(data: DataSettings, given: Dataset | None = None) -> Dataset:
    """Returns the data set that settings name, or one made in Python, with labels and balance as the settings say.

    Raises:
        DataError: there is none, or it was given in Python and is not given now.
    """
    if given is None and data.name.startswith(GIVEN):
        raise ArtifactError(f"the data set {data.name.removeprefix(GIVEN)!r} was given in Python: give it again, data=...")
    dataset = load_dataset(data.name, data.options) if given is None else given
    dataset = dataset if data.labels else dataset.without_labels()
    dataset = dataset.balanced() if data.balanced else dataset
    if data.flip and len(dataset.shape) < 2:
        raise SettingError(f"data.flip is for images, but samples of {dataset.name} have shape {dataset.shape}; leave it out")
    if data.flip and dataset.codec is not None:
        raise SettingError(
            f"data.flip is for images, but {dataset.name} holds latents, and flipped ones are those of no image; leave it out"
        )
    return replace(dataset, flip=data.flip)


def _data_config(data: DataSettings, dataset: Dataset) -> DataConfig:
    label, shares = dataset.labels, None
    if dataset.classes is not None and label is not None:
        shares = tuple((torch.bincount(label, minlength=dataset.classes).double() / len(label)).tolist())
    codec = None if dataset.codec is None else codecs.describe(dataset.codec.pinned())
    own = data.name, data.options, data.labels, data.balanced
    return DataConfig(*own, dataset.shift, dataset.scale, dataset.limits, shares, codec)


def _network_spec(dataset: Dataset, model: MatchingModel) -> NetworkSpec:
    """Returns what a network for the data and the model must accept."""
    label = dataset.train.label
    label_shape = tuple(label.shape[1:]) if label is not None and dataset.classes is None else None
    return NetworkSpec(dataset.shape, dataset.classes, model.sees_source, label_shape, len(model.objective.heads))


def sizes_of(name: str, spec: NetworkSpec) -> list[Spec]:
    """Returns settings that a registered network recommends for a kind of event, from small to large; none where it has no advice."""
    sizes = getattr(networks[name], "sizes", None)
    return [] if sizes is None else [{"name": name, **settings} for settings in sizes(spec)]


def sized(network: Mapping[str, Any], spec: NetworkSpec) -> Spec:
    """Returns the spec of a network, with the smallest recommended size where it states no setting."""
    return dict(network) if len(network) > 1 else next(iter(sizes_of(network["name"], spec)), dict(network))


# -- the teacher -----------------------------------------------------------------------------------------------------------


def _teacher(
    settings: RunSettings, dataset: Dataset, given: Teacher | None, trust: bool, own: Path | None
) -> tuple[ArtifactConfig, Teacher, bool]:
    """Returns the teacher with its description, and whether it is finished."""
    t, recorded = settings.teacher, None if own is None else read_config(own)
    if given is None and t.name in families:
        if _is_set(t, "normalization"):
            raise SettingError("teacher.normalization is for a teacher that was trained elsewhere; leave it out: a family's has the data's")
        return *_family_teacher(settings, dataset, recorded), False
    teacher = given if given is not None else adapters.open_teacher(t.name, trust=trust)
    _refuse("teacher", t, OF_TRAINING if teacher is not None else (*OF_TRAINING, "normalization"))
    if teacher is not None:
        _warn_of_training(t, teacher)
        config = _given_config(teacher, dataset, settings, recorded)
        return config, _guided(teacher.field, config), True
    config, teacher = _artifact_teacher(t.name, dataset, trust, own)
    _warn_of_training(t, teacher)
    if t.sampler is not None:
        config = replace(config, sampler=samplers.describe(samplers.build(t.sampler)))
    if t.guidance is not None:
        config = replace(config, guidance=t.guidance)
    if t.guidance_interval is not None:
        config = replace(config, guidance_interval=t.guidance_interval)
    teacher = _guided(teacher.field, config)
    data = _data_config(settings.data, dataset.normalized_as(config.data.shift, config.data.scale))  # of this run, in the teacher's units
    return replace(config, data=data, settings=settings_digest(settings, "teacher")), teacher, True


def _warn_of_training(t: TeacherSettings, teacher: Teacher) -> None:
    """Says that settings of a training are not used, which may come with those of another run."""
    unused = [name for name in ("network", "training") if _is_set(t, name)]
    if "network" in unused and not any(True for _ in teacher.field.parameters()):
        unused.remove("network")  # it is the critic's
    if unused:
        logger.warning("%s: the teacher is finished, so this changes nothing", " and ".join(f"teacher.{name}" for name in unused))


def _is_set(settings: TeacherSettings | StudentSettings, name: str) -> bool:
    return bool(getattr(settings, name) != type(settings).model_fields[name].get_default(call_default_factory=True))


def _refuse(part: str, settings: TeacherSettings | StudentSettings, names: Sequence[str]) -> None:
    """Refuses settings that would change nothing, since what they are of is finished."""
    for name in names:
        if _is_set(settings, name):
            raise SettingError(f"{part}.{name} changes nothing of a finished {part} ({settings.name}); leave it out")


def _family(t: TeacherSettings) -> Family:
    family: Family = families.build({"name": t.name, **t.options})
    return family


def _family_teacher(settings: RunSettings, dataset: Dataset, recorded: ArtifactConfig | None) -> tuple[ArtifactConfig, Teacher]:
    """Returns the untrained teacher that a family makes for the data, with its description.

    Args:
        recorded: of the same teacher, where it was trained already; the data may be others now.
    """
    t, family = settings.teacher, _family(settings.teacher)
    dataset = dataset if recorded is None else dataset.normalized_as(recorded.data.shift, recorded.data.scale)
    model = _model(t, family, dataset)
    spec, moments = _network_spec(dataset, model), dataset.moments(model.coupling) if recorded is None else recorded.moments
    network = sized(family.network(t.network), spec)
    torch.manual_seed(settings.seed)  # the global generator is used for initial weights and nothing else
    field = build_field(network, spec, model, moments)
    defaults = family.defaults(paired=dataset.paired)
    config = ArtifactConfig(
        kind="teacher",
        network=network,
        network_spec=spec,
        model=model,
        moments=moments,
        sampler=samplers.describe(defaults.sampler if t.sampler is None else samplers.build(t.sampler)),
        data=_data_config(settings.data, dataset),
        defaults=defaults.resolve(model, dataset.train.data, field) if recorded is None else recorded.defaults,
        seed=settings.seed,
        guidance=1.0 if t.guidance is None else t.guidance,
        guidance_interval=t.guidance_interval,
        label_dropout=t.training.label_dropout,
        settings=settings_digest(settings, "teacher"),
    )
    return config, _guided(field, config)


def _guided(field: nn.Module, config: ArtifactConfig) -> Teacher:
    return Teacher(field, config.model, config.moments, config.guidance, guidance_interval=config.guidance_interval)


def _model(t: TeacherSettings, family: Family, dataset: Dataset) -> MatchingModel:
    """Returns the family's model with the pieces that the settings replace."""
    model = family.model(paired=dataset.paired)
    pieces = {"coupling": (couplings, t.coupling), "interpolant": (interpolants, t.interpolant), "objective": (objectives, t.objective)}
    changes: dict[str, Any] = {name: registry.build(spec) for name, (registry, spec) in pieces.items() if spec is not None}  # type: ignore[attr-defined]
    if t.times is not None:
        changes["times"] = _changed(model.times, t.times)
    if t.sees_source is not None:
        changes["sees_source"] = t.sees_source
    model = replace(model, **changes)
    if model.coupling.reads_source and not dataset.paired:
        raise IncompatibleError(
            f"coupling {couplings.name_of(model.coupling)!r} reads a source from the data, but {dataset.name} has none; "
            "use digits-restore, an npz with an array 'source', or another coupling"
        )
    if model.gaussian and family.model(paired=True).sees_source:
        logger.info("%s without pairs: %s has none, so the source is normal noise, independent of the data", t.name, dataset.name)
    return model


def _changed(times: TimeDistribution, change: TimeSettings | None) -> TimeDistribution:
    return times if change is None else replace(times, **change.changes())


def _found_normalization(teacher: Teacher, dataset: Dataset) -> tuple[float, float]:
    """Returns the (shift, scale) that a teacher's answers fit clearly best, or else that of the data, and says which and why."""
    check_answer(teacher, dataset)
    found = guess_normalization(teacher, dataset)
    shift, scale = found or (dataset.shift, dataset.scale)
    logger.log(logging.INFO if found else logging.WARNING, FOUND if found else UNSTATED, shift, scale)
    return shift, scale


def _given_config(teacher: Teacher, dataset: Dataset, settings: RunSettings, recorded: ArtifactConfig | None) -> ArtifactConfig:
    """Describes a teacher made in Python or by an adapter."""
    t = settings.teacher
    stated = t.normalization or teacher.normalization or (recorded and (recorded.data.shift, recorded.data.scale))
    dataset = dataset.normalized_as(*(stated or _found_normalization(teacher, dataset)))
    spec = getattr(teacher.field, "spec", {"name": None})
    takes_label = getattr(teacher.field, "takes_label", True)
    if dataset.train.label is not None and not takes_label:
        logger.info(UNLABELLED)
    defaults = teacher.defaults or Defaults.of_model(teacher.model, samplers["ode"](), paired=dataset.paired)
    return ArtifactConfig(
        kind="teacher",
        network=spec,
        network_spec=_network_spec(dataset if takes_label else dataset.without_labels(), teacher.model),
        model=teacher.model,
        moments=teacher.moments,
        sampler=samplers.describe(defaults.sampler if t.sampler is None else samplers.build(t.sampler)),
        data=_data_config(settings.data, dataset),
        defaults=defaults.resolve(teacher.model, dataset.train.data, teacher.field),
        seed=settings.seed,
        guidance=teacher.guidance if t.guidance is None else t.guidance,
        guidance_interval=teacher.guidance_interval if t.guidance_interval is None else t.guidance_interval,
        label_dropout=None,  # not known
        origin=teacher.origin,
        settings=settings_digest(settings, "teacher"),
    )


def _artifact_teacher(name: str, dataset: Dataset, trust: bool, own: Path | None) -> tuple[ArtifactConfig, Teacher]:
    """Loads the teacher of a finished run for other, fitting data; where that run is gone, the copy that its student's run keeps."""
    if name.startswith(GIVEN):
        raise ArtifactError("the teacher was given in Python: give it again, teacher=...")
    folder = find_artifact(name, "teacher")
    if folder is None and own is not None:
        logger.info("teacher: %s is gone, so the run's own copy is taken", name)
        folder = own
    if folder is None:
        if name.endswith(".py"):
            raise UnknownNameError(f"teacher {name!r} {_no_teacher(name)}")
        raise UnknownNameError(
            f"teacher {name!r} is neither a family ({', '.join(families)}), the folder of a finished run, FILE.py:NAME nor "
            f"{', '.join(f'{prefix}:PATH' for prefix in adapters.PREFIXES)}{nearest(name, families)}"
        )
    config, teacher = load_artifact(folder, trust=trust)
    if not isinstance(teacher, Teacher):
        raise ArtifactError(f"{folder} holds a student, not a teacher")
    wanted = _network_spec(dataset, config.model)
    if config.network_spec != wanted:
        raise IncompatibleError(
            f"the teacher of {name} was made for events of shape {config.network_spec.shape} with {config.network_spec.classes or 'no'} "
            f"classes, but {dataset.name} has shape {wanted.shape} and {wanted.classes or 'no'} classes "
            "(data.labels=false leaves labels out)"
        )
    if config.model.coupling.reads_source and not dataset.paired:
        raise IncompatibleError(f"the teacher of {name} starts from a source that is data, but {dataset.name} has none")
    return config, teacher


def _no_teacher(name: str) -> str:
    """Why a name is no trained teacher, with what would be."""
    if name in families:
        return "is a family, which has no trained teacher: give the folder of a run, as of: matchlib train --family " + name
    if name.endswith(".py"):
        return f"is a file: say which teacher of it is meant, {name}:NAME"
    return f"is not the folder of a finished run, FILE.py:NAME nor {', '.join(f'{prefix}:PATH' for prefix in adapters.PREFIXES)}"


def names_code(teacher: str) -> bool:
    """Returns whether a teacher is named by its Python code, which whoever names it in a call trusts; a run's folder never is."""
    return ".py:" in teacher


def open_teacher(name: str, data: str | None, *, trust: bool) -> tuple[Teacher, Dataset]:
    """Returns the teacher of a run or of an adapter, and the data it is for.

    Args:
        name: as ``teacher.name``, but no family.
        data: registered set or path; None for what the run was made from.

    Raises:
        SettingError: a teacher that is no run's was given no data.
    """
    teacher = adapters.open_teacher(name, trust=trust)
    if teacher is not None:
        if data is None:
            raise SettingError(f"{name} does not say which data it is for: give --data")
        return teacher, dataset_of_settings(DataSettings(name=data))
    folder = find_artifact(name, "teacher")
    if folder is None:
        raise UnknownNameError(f"teacher {name!r} {_no_teacher(name)}")
    config, loaded = load_artifact(folder, trust=trust)
    if not isinstance(loaded, Teacher):
        raise ArtifactError(f"{folder} holds a student, not a teacher")
    settings = DataSettings(name=config.data.name, labels=config.data.labels, balanced=config.data.balanced, **config.data.options)
    chosen = settings if data is None else DataSettings(name=data, labels=config.data.labels)
    return loaded, dataset_of_settings(chosen).normalized_as(config.data.shift, config.data.scale)


# -- the student -----------------------------------------------------------------------------------------------------------


def _distillation(
    settings: RunSettings, config: ArtifactConfig, teacher: Teacher, dataset: Dataset, *, trains: bool, trust: bool
) -> StudentComponents:
    t, defaults = settings.trainer, config.defaults
    if t.engine.parallel == "fsdp" and (settings.student.lora or t.critic_lora):
        raise SettingError("student.lora and trainer.critic_lora need trainer.engine.parallel=ddp: fsdp cuts the weights of adapted layers")
    loss: DistillationLoss = losses.build(settings.loss)
    if (caution := cautioned(loss)) is not None:
        logger.warning("loss: %s", caution)
    learns = any(True for _ in teacher.field.parameters())
    described, student = _student(settings, config, teacher, dataset, learns, trust=trust)
    critic = _critic(settings, config, teacher, learns)
    for kind, module, setting in (("student", student, "student.network"), ("critic", critic, "trainer.critic_network")):
        if not any(True for _ in module.parameters()):
            raise IncompatibleError(f"the network of the {kind} has no weights to train; choose another with {setting}.name")
    view(teacher, config.model, config.model.objective if loss.space is None else objectives[loss.space]())
    fresh, own = settings.student.name in students, (described.student or {}).get("network") is not None
    like_teacher = learning_rate(teacher.field)
    trained = config.model.times
    times = _changed(trained if defaults.times is None else defaults.times.within(trained), t.times)
    if times.t_min < trained.t_min or times.t_max > trained.t_max:
        raise SettingError(
            f"trainer.times must lie in [{trained.t_min:g}, {trained.t_max:g}], where the teacher was trained, got "
            f"[{times.t_min:g}, {times.t_max:g}]"
        )
    return StudentComponents(
        student,
        described,
        critic,
        loss,
        times,
        t.student_lr or t.student_lr_scale * defaults.student_lr * learning_rate(student) / like_teacher,
        t.critic_lr or t.critic_lr_scale * defaults.critic_lr * learning_rate(critic) / like_teacher,
        t.critic_steps or defaults.critic_steps,
        (trains and fresh and not own, trains and t.critic_network is None and learns),
        fresh and settings.student.init_from_teacher and own,
        (settings.student.lora, t.critic_lora),
        settings.seed,
    )


def _critic(settings: RunSettings, config: ArtifactConfig, teacher: Teacher, learns: bool) -> nn.Module:
    """Returns the network that is asked for; else a copy of the teacher's field, or a fresh one where that has no weights to learn."""
    network = settings.trainer.critic_network
    if network is None and learns:
        return copy.deepcopy(teacher.field).train().requires_grad_(True)
    torch.manual_seed(settings.seed + 1)  # not the student's weights again
    return build_field(sized(network or settings.teacher.network, config.network_spec), config.network_spec, config.model, config.moments)


def _student(
    settings: RunSettings, config: ArtifactConfig, teacher: Teacher, dataset: Dataset, learns: bool, *, trust: bool
) -> tuple[ArtifactConfig, Student]:
    """Returns description and module: a new student of a plugin, or that of a finished run."""
    s = settings.student
    if s.name not in students:
        return _artifact_student(s, config, teacher, trust=trust)
    network: Spec = {"network": sized(s.network or settings.teacher.network, config.network_spec)} if s.network or not learns else {}
    if network and s.init_from_teacher:
        network["objective"] = objectives.describe(teacher.model.objective)  # so that equal weights mean the same
    axes = config.defaults.axes if s.axes is None else s.axes
    if axes and not starts_from_noise(config.model):
        raise IncompatibleError(f"student.axes={axes} is for models that start from normal noise, and this one does not: set it to 0")
    spec = {"name": s.name, "t_start": config.defaults.t_start, **s.options, **network, **({"axes": axes} if axes else {})}
    torch.manual_seed(settings.seed)
    student = build_student(spec, teacher, config.network_spec)
    if isinstance(start := getattr(student, "start", None), GaussianStart):
        start.fit(dataset.train.data, teacher.model.interpolant, spec["t_start"])
    return replace(config, kind="student", student=spec), student


def _artifact_student(s: StudentSettings, config: ArtifactConfig, teacher: Teacher, *, trust: bool) -> tuple[ArtifactConfig, Student]:
    folder = find_artifact(Path(s.name), "student")
    if folder is None:
        known = ", ".join(students)
        raise UnknownNameError(
            f"student {s.name!r} is neither a registered student ({known}) nor the folder of a finished run{nearest(s.name, students)}"
            + ("; a run that goes on from another's student needs that until it is finished" if "/" in s.name else "")
        )
    other, student = load_artifact(folder, teacher=teacher, trust=trust)
    if not isinstance(student, Student) or other.student is None:
        raise ArtifactError(f"{folder} holds a teacher, not a student")
    if other.network_spec != config.network_spec:
        raise IncompatibleError(f"the student of {s.name} was made for {other.network_spec}, the teacher for {config.network_spec}")
    (shift, scale), (its_shift, its_scale) = ((x.data.shift, x.data.scale) for x in (config, other))
    if abs(its_scale / scale - 1) > SAME_UNITS or abs(its_shift - shift) > SAME_UNITS * scale:
        logger.warning(STRETCHED, s.name, its_shift, its_scale, shift, scale, scale / its_scale)
    if other.model.coupling.reads_source != config.model.coupling.reads_source:
        raise IncompatibleError(f"the student of {s.name} and the teacher start from different sources, data and noise")
    _refuse("student", s, ("network", "init_from_teacher", "axes"))
    own = {key: getattr(other, key) for key in ("student", "network", "origin", "model", "moments")}
    return replace(config, kind="student", **own), student
