"""The commands. Each imports what it needs when it runs, so that ``matchlib --help`` imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["COMMANDS"]


def _run_plugins(paths: list[Path] | None) -> list[Path] | None:
    """Runs files of plugins while the command line is read, so that every name is known when a command begins."""
    if paths:
        from matchlib.registry import import_file

        for path in paths:
            import_file(path)
    return paths


SEEDS = 2**63 - 1  # the largest
BROKEN = 5  # samples that could not be read, as many as are shown
Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; options and --set overrule it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, PATH=VALUE, e.g. teacher.interpolant.name=trigonometric.")]
Data = Annotated[
    str | None, typer.Option("--data", help="Registered or prepared data set, .npz, .npy, .tar, .parquet, or a folder of images.")
]
Out = Annotated[str | None, typer.Option("--out", help="Folder of the run [default: runs/DATE-NAME].")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=SEEDS, help="Seed of every random stream.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Optimiser steps of the phase that the command is named after.")]
Time = Annotated[str | None, typer.Option("--time", help="That everything may take on this machine, e.g. 30m or 1h30m: decides the steps.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Named settings: correct (a teacher that is wrong) or paper (the released loss).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out if it was started with the same settings.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run code that a configuration or artifact names.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", metavar="FILE.py", help="A file that registers plugins of yours; it is run.", callback=_run_plugins),
]
Pictures = Annotated[bool, typer.Option("--pictures", help="Show samples as small blocks of colour, in a terminal that has colours.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def train(
    family: Annotated[str | None, typer.Option("--family", help="Family of the teacher: flow, diffusion, bridge, interpolant, ...")] = None,
    recipe: Recipe = None,
    config: Config = None,
    set_: Set = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    steps: Steps = None,
    time: Time = None,
    resume: Resume = False,
    pictures: Pictures = False,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Train a teacher and score its samples."""
    options = {"teacher.name": family, "teacher.training.steps": steps, **_common(data, out, seed, device)}
    return _start("train", recipe, config, options, set_, pictures, again=resume, time=time, trust=trust)


def distill(
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="A family (its default teacher is trained or cached), a run, FILE.py:NAME or PREFIX:PATH."),
    ] = None,
    student: Annotated[str | None, typer.Option("--student", help="A registered student, or a run whose student goes on.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="realuid, uid, sid, fgm, ibmd, ...")] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="RealUID: weight of the teacher on generated points; alone it sets beta and gamma, too.")
    ] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="RealUID: weight of the target on generated points.")] = None,
    gamma: Annotated[float | None, typer.Option("--gamma", help="RealUID: weight of the square on generated points.")] = None,
    recipe: Recipe = None,
    config: Config = None,
    set_: Set = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    steps: Steps = None,
    time: Time = None,
    resume: Resume = False,
    pictures: Pictures = False,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Distil a teacher into a generator that needs one step, and score both."""
    options = {
        "teacher.name": teacher,
        "student.name": student,
        "loss.name": loss,
        "loss.alpha": alpha,
        "loss.beta": beta,
        "loss.gamma": gamma,
        "trainer.steps": steps,
        **_common(data, out, seed, device),
    }
    from matchlib.runs.build import names_code

    trusted = trust or (teacher is not None and names_code(teacher))
    return _start("distill", recipe, config, options, set_, pictures, again=resume, time=time, trust=trusted)


def prepare(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Folder of images or of tar files, table of Hugging Face datasets, .parquet, .npz or .npy."),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder, which is then given as --data.")],
    size: Annotated[int | None, typer.Option("--size", min=1, help="Cut images to squares, and scale them to SIZE x SIZE.")] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="1 for grey, 3 for colours [default: as the first image].")] = None,
    held_out: Annotated[str | None, typer.Option("--held-out", help="The held-out data, likewise [default: a fifth of DATA].")] = None,
    encode: Annotated[str | None, typer.Option("--encode", help="Write latents: vae:FOLDER, an AutoencoderKL of diffusers.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End at what cannot be read, in place of leaving it out.")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=1024, help="Threads that decode [default: one for each core].")
    ] = None,
) -> int:
    """Write data as arrays on disk, of which training reads what it draws."""
    from matchlib.data.prepare import prepare as prepare_data
    from matchlib_cli.screen import counting
    from matchlib_cli.signals import Stop, listening

    stop = Stop()
    with listening(stop), counting("samples") as on_progress:
        found = prepare_data(
            data,
            out,
            size=size,
            channels=channels,
            held_out=held_out,
            encode=encode,
            strict=strict,
            workers=workers,
            on_progress=on_progress,
            should_stop=lambda: bool(stop),
        )
    for line in found.broken[:BROKEN]:
        print(f"left out: {line}")
    also = f"; {len(found.broken)} could not be read and are listed in {out / 'meta.json'}" if found.broken else ""
    print(f"wrote {out}: {found.n:,} samples of {found.dtype}, shape {found.shape}{also}")
    return 0


def demo(
    folder: Folder,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the page, on this machine alone.")] = 7860,
    device: Device = None,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Open a page where a run's student and teacher can be tried side by side; Ctrl-C ends it."""
    import time

    from matchlib.errors import SettingError
    from matchlib.exporting.demo import Demo, page
    from matchlib.runs.build import device_of

    blocks = page(Demo(folder, device=str(device_of(device or "cpu")), trust=trust), str(folder.name or folder.resolve().name))
    try:
        _, address, _ = blocks.launch(server_name="127.0.0.1", server_port=port, share=False, quiet=True, prevent_thread_lock=True)
    except OSError as error:
        raise SettingError(f"port {port} cannot be used: {' '.join(str(error).split())}; choose another with --port") from error
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        blocks.close(verbose=False)
    return 0


def score(
    samples: Annotated[str, typer.Argument(metavar="SAMPLES", help="FILE.npz with an array 'data', FILE.npy, or a folder of images.")],
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="The data to compare with, as for --data, or FILE.npz with 'mu' and 'sigma'.")
    ],
    n: Annotated[
        int | None, typer.Option("-n", min=2, help="Samples in a score [default: all, at most 10,000 or the held-out size].")
    ] = None,
    extractor: Annotated[str, typer.Option("--extractor", help="own, or FILE.pt or FILE.pt2 with a network.")] = "own",
    out: Annotated[Path | None, typer.Option("--out", help="FILE.json for the scores and how they were made.")] = None,
    device: Device = None,
) -> int:
    """Score samples from anywhere against a data set."""
    from matchlib.io import write_json
    from matchlib.runs.build import device_of
    from matchlib.runs.run import watched
    from matchlib.runs.scoring import common_protocol
    from matchlib.runs.scoring import score as score_samples
    from matchlib_cli.screen import live_view, show_scores

    with live_view() as view:
        work = watched(view.show, view.stopped)
        report = score_samples(samples, reference, n=n, extractor=extractor, device=device_of(device or "cpu"), work=work)
    if out is not None:
        write_json(out, report)
    rows = {"samples": "given", "held-out": "held_out"}
    show_scores({name: report[key] for name, key in rows.items() if key in report}, common_protocol(report))
    return 0


def compare(folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of evaluated runs.")]) -> int:
    """Print the scores of several runs side by side, if they were made in the same way."""
    from matchlib.runs.scoring import common_protocol, read_evaluation
    from matchlib.runs.scoring import compare as compare_runs
    from matchlib_cli.screen import show_scores

    show_scores(compare_runs(folders), common_protocol(read_evaluation(folders[0] / "evaluation.json")))
    return 0


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN [RUN...]", help="Folders of runs; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.html [default: RUN/report.html, of several runs comparison.html].")
    ] = None,
) -> int:
    """Write the page of a run from its files, or one page that compares runs."""
    from matchlib.runs.page.document import write_page

    print(f"wrote {write_page(folders, out)}")
    return 0


def watch(
    folder: Folder,
    once: Annotated[bool, typer.Option("--once", help="Show how far it is, and end.")] = False,
    pictures: Pictures = False,
) -> int:
    """Follow a run that was started elsewhere, from its files, until it is scored."""
    from matchlib_cli.watch import follow

    follow(folder, once=once, pictures=pictures)
    return 0


def resume(
    folder: Folder,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="One of RUN/checkpoints to go on from; by default the last.")
    ] = None,
    changed_data: Annotated[bool, typer.Option("--changed-data", help="Go on though the data have changed since the run began.")] = False,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Go on with a run from its last checkpoint."""
    from matchlib.runs.api import is_finished, open_run

    if checkpoint is None and is_finished(folder):
        print(f"{folder} is finished: there is nothing to resume")
        return 0
    return _execute(lambda **hooks: open_run(folder, checkpoint=checkpoint, trust=trust, changed_data=changed_data, **hooks))


def sample(
    folder: Folder,
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 64,
    out: Annotated[Path, typer.Option("--out", help="FILE.png for a picture, FILE.npz for the array 'data', in data units.")] = Path(
        "samples.png"
    ),
    labels: Annotated[
        str | None, typer.Option("--labels", help="One class, n classes or balanced: 3 or 0,1,2,... [default: as the data].")
    ] = None,
    of: Annotated[str | None, typer.Option("--of", help="student or teacher [default: the student if there is one].")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=SEEDS, help="The same seed gives the same samples.")] = 0,
    latents: Annotated[bool, typer.Option("--latents", help="Write the latents of a model of latents as they are.")] = False,
    device: Device = None,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Generate samples with a run's student or teacher."""
    from matchlib.errors import SettingError
    from matchlib.runs.build import device_of
    from matchlib.runs.pipeline import load
    from matchlib_cli.files import check_finite, parse_labels, write_samples

    if out.suffix not in (".png", ".npz"):
        raise SettingError(f"--out must end in .png or .npz, got {str(out)!r}")
    pipeline = load(folder, of, device=str(device_of(device or "cpu")), trust=trust)
    batch = pipeline.sample_batch(n, seed=seed, labels=None if labels is None else parse_labels(labels))
    data = (pipeline.denormalize if latents else pipeline.decode)(batch.data)
    samples, limits = data.cpu().numpy(), pipeline.config.data.limits if latents else pipeline.limits
    check_finite(samples, pipeline.config.kind)
    write_samples(out, samples, limits, None if batch.label is None else batch.label.cpu().numpy())
    print(f"wrote {out}: {n} samples of shape {samples.shape[1:]}, {pipeline.nfe} evaluation{'s' if pipeline.nfe > 1 else ''} each")
    return 0


def evaluate(
    folder: Folder,
    draws: Annotated[int | None, typer.Option("--draws", min=1, help="Times that samples are drawn and scored.")] = None,
    seed: Seed = None,
    device: Device = None,
    trust: Trust = False,
    changed_data: Annotated[bool, typer.Option("--changed-data", help="Score though the data have changed since the run began.")] = False,
    plugins: Plugins = None,
) -> int:
    """Score a run's student and teacher again, and rewrite its evaluation.json and samples.png."""
    from matchlib.errors import Interrupted
    from matchlib.runs.api import evaluate as evaluate_run
    from matchlib_cli.screen import live_view, show_report

    with live_view() as view:
        scoring = partial(evaluate_run, folder, draws=draws, seed=seed, device=device, trust=trust, changed_data=changed_data)
        try:
            report = scoring(on_progress=view.show, should_stop=view.stopped)
        except Interrupted as interrupted:
            raise Interrupted(f"{interrupted}; the same command goes on") from interrupted
    show_report(report)
    print(f"wrote {folder / 'evaluation.json'}")
    return 0


def export(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", help="diffusers, onnx, pt2 or hub.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must be new or empty.")],
    license_: Annotated[str | None, typer.Option("--license", help="Licence of the weights, for the README [default: not stated].")] = None,
    push: Annotated[str | None, typer.Option("--push", help="Repository of the Hugging Face hub to upload the folder to.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting of the form, NAME=VALUE.")] = None,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Write a run's student in a form that needs no matchlib, and compare it with the student."""
    from matchlib.exporting.api import export as export_run

    print(export_run(folder, to, out, license=license_, push=push, trust=trust, settings=_assignments(set_)))
    return 0


def plugins(group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="One group, with a line on each plugin.")] = None) -> int:
    """List what is registered."""
    from matchlib.registry import ALL

    if group is None:
        for name, registry in ALL.items():
            print(f"{name}: {', '.join(registry)}")
        return 0
    _check_group(group)
    for name in ALL[group]:
        summary = (ALL[group][name].__doc__ or "").strip().splitlines() or [""]
        print(f"{name}: {summary[0]}")
    return 0


def check(
    group: Annotated[
        str | None,
        typer.Argument(metavar="[GROUP|FILE.py]", help="Group of the plugin, e.g. interpolants; or a file of yours, which is run."),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Registered name of the plugin.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every registered plugin.")] = False,
) -> int:
    """Hold plugins to the laws of their group."""
    from matchlib.errors import SettingError
    from matchlib.registry import ALL
    from matchlib_cli.laws import check as check_laws
    from matchlib_cli.laws import check_file

    if every == (group is not None):
        raise SettingError("check takes GROUP NAME, FILE.py, or --all")
    if group is not None and group.endswith(".py"):
        return check_file(Path(group), name)
    if group is not None:
        _check_group(group)
        if name is not None:
            ALL[group][name]
    return check_laws(group, name)


def doctor(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Folder of a run, FILE.py:NAME of a matchlib.Teacher, or PREFIX:PATH.")],
    data: Data = None,
    seed: Seed = None,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Examine a teacher before anything is trained on it: time, sign, scale, prediction, labels, weights."""
    from matchlib.evaluation.doctor import examine
    from matchlib.runs.build import names_code, open_teacher
    from matchlib_cli.screen import counting, show_diagnosis

    opened = open_teacher(teacher, data, trust=trust or names_code(teacher))
    with counting("evaluations of the teacher") as on_progress:
        diagnosis = examine(*opened, seed=seed or 0, on_progress=on_progress)
    show_diagnosis(diagnosis)
    return 2 if diagnosis.mistakes else 0


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint written by torch.save, or FILE.pkl of EDM's code.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.safetensors to write.")],
    entry: Annotated[str, typer.Option("--entry", help="Keys to the weights, with dots: ema_models.0.9999 [default: the top].")] = "",
    unpickle: Annotated[bool, typer.Option("--unpickle", help="RUNS ANY CODE IN THE FILE. Only if you trust its author.")] = False,
) -> int:
    """Turn the weights in a checkpoint into a safetensors file; without --unpickle, no code of the checkpoint is run."""
    from matchlib.errors import SettingError
    from matchlib.io import read_checkpoint, select, unpickled, write_tensors

    if out.suffix != ".safetensors":
        raise SettingError(f"--out must end in .safetensors, got {str(out)!r}")
    if unpickle:
        print(f"unpickling {checkpoint}: any code in it runs now, with your rights")
        tensors = select(unpickled(checkpoint), entry, checkpoint)
    elif checkpoint.suffix == ".pkl":
        from matchlib.adapters.pickled import read_network_pickle

        tensors = read_network_pickle(checkpoint, entry)
    else:
        tensors = read_checkpoint(checkpoint, entry)
    write_tensors(out, {name: x.detach().clone().contiguous() for name, x in tensors.items()})
    print(f"wrote {out}: {len(tensors)} tensors, {sum(x.numel() for x in tensors.values()):,} numbers")
    return 0


def plan(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Settings of a distillation, as for --config.")],
    memory: Annotated[str | None, typer.Option("--memory", help="What there is, for example 24GiB.")] = None,
    set_: Set = None,
    data: Data = None,
    trust: Trust = False,
    plugins: Plugins = None,
) -> int:
    """Print the memory that a distillation will need, by part, and the largest batch that fits."""
    from matchlib.runs.plan import plan as plan_run
    from matchlib.runs.settings import read_yaml, resolve
    from matchlib_cli.screen import read_bytes, show_plan

    available = None if memory is None else read_bytes(memory)
    settings = resolve("distill", config=read_yaml(config), options={"data.name": data}, settings=_assignments(set_))
    show_plan(plan_run(settings, trust=trust), available)
    return 0


def schema() -> int:
    """Print the JSON Schema of the settings, so that editors complete and check YAML files."""
    import json

    from matchlib.runs.settings import RunSettings

    print(json.dumps(RunSettings.model_json_schema(), indent=2))
    return 0


COMMANDS: Sequence[Callable[..., int]] = (
    prepare,
    train,
    distill,
    sample,
    evaluate,
    export,
    demo,
    score,
    compare,
    report,
    watch,
    resume,
    plugins,
    check,
    doctor,
    convert,
    plan,
    schema,
)


# -- what they share -------------------------------------------------------------------------------------------------------


def _common(data: str | None, out: str | None, seed: int | None, device: str | None) -> dict[str, Any]:
    return {"data.name": data, "out": out, "seed": seed, "device": device}


def _assignments(items: Sequence[str] | None) -> dict[str, Any]:
    """Returns ``{path: value}`` of PATH=VALUE strings, each value read as YAML."""
    from matchlib.errors import SettingError
    from matchlib.io import parse_yaml

    values: dict[str, Any] = {}
    for item in items or ():
        path, equals, text = item.partition("=")
        if not equals:
            raise SettingError(f"--set takes PATH=VALUE, for example trainer.batch_size=64, got {item!r}")
        try:
            values.pop(path, None)  # a later value is laid over what stands between
            values[path] = parse_yaml(text)
        except ValueError as error:
            raise SettingError(f"--set {path}: {text!r} is not a YAML value: {error}") from error
    return values


def _start(
    command: str,
    recipe: str | None,
    config: Path | None,
    options: Mapping[str, Any],
    set_: Sequence[str] | None,
    pictures: bool,
    **how: Any,
) -> int:
    from matchlib.runs.api import start_run
    from matchlib.runs.settings import read_yaml, resolve

    tree, named = None if config is None else read_yaml(config), _assignments(set_)
    settings = resolve(command, recipe=recipe, config=tree, options=options, settings=named)
    return _execute(lambda **hooks: start_run(settings, named=named, **how, **hooks), pictures=pictures)


def _execute(start: Callable[..., Any], *, pictures: bool = False) -> int:
    """Starts or opens a run, executes it with progress, shows what came of it, and returns the exit code."""
    from matchlib.training.distributed import hard_exit

    code = _carried_out(start, pictures=pictures)
    hard_exit(code)
    return code


def _carried_out(start: Callable[..., Any], *, pictures: bool) -> int:
    from matchlib.errors import Interrupted
    from matchlib.training.distributed import rank
    from matchlib_cli.blocks import Blocks
    from matchlib_cli.errors import INTERRUPTED, fail
    from matchlib_cli.screen import console, live_view, show_report

    with live_view(quiet=rank()[0] > 0) as view:
        run = start(on_progress=view.show, should_stop=view.stopped)
        view.say(f"run: {run.folder}")
        if pictures:
            view.samples = Blocks(run.folder).text
        try:
            report = run.execute()
        except Interrupted as interrupted:
            fail(f"{interrupted}; go on with: matchlib resume {run.folder}")
            return INTERRUPTED
    if rank()[0]:
        return 0
    show_report(report)
    for name in ("samples.png", "evaluation.json", "report.html", *sorted(run.pipelines)):
        if (run.folder / name).exists():
            console().print(f"wrote {run.folder / name}", markup=False)
    return 0


def _check_group(group: str) -> None:
    from matchlib.errors import UnknownNameError, nearest
    from matchlib.registry import ALL

    if group not in ALL:
        raise UnknownNameError(f"there is no group {group!r} (there are: {', '.join(ALL)}){nearest(group, ALL)}")
