"""The command line as a stranger uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

Cli = Callable[..., tuple[int, str, str]]
MATCHLIB = [sys.executable, "-m", "matchlib_cli"]


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom matchlib_cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )

    def seconds(command: list[str]) -> float:
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - begin

    pairs = [
        (seconds([*MATCHLIB, "--help"]), seconds([sys.executable, "-c", "import typer"])) for _ in range(10)
    ]  # in turns: both are slowed
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert min(ours for ours, _ in pairs) < 3 * min(theirs for _, theirs in pairs)


def test_distill_writes_what_the_contract_says(finished: Path, cli: Cli) -> None:
    for name in ("config.yaml", "metrics.jsonl", "samples.png", "evaluation.json", "checkpoints"):
        assert (finished / name).exists()
    for kind in ("teacher", "student"):
        assert {path.name for path in (finished / kind).iterdir()} == {"model.safetensors", "config.json"}
    config = json.loads((finished / "student" / "config.json").read_text())
    assert config["student"]["name"] == "onestep"
    assert config["model"]["interpolant"] == {"name": "linear"}
    tree = yaml.safe_load((finished / "config.yaml").read_text())
    assert set(tree) >= {"data", "teacher", "student", "loss", "trainer", "evaluation", "seed", "device", "out"}
    phases = {json.loads(line)["phase"] for line in (finished / "metrics.jsonl").read_text().splitlines()}
    assert phases == {"teacher", "student"}


def test_without_a_terminal_output_is_plain(tmp_path: Path, cli: Cli, small: list[str]) -> None:
    code, out, err = cli("distill", "--data", "moons", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "student" in out and "held-out" in out and str(tmp_path / "run" / "samples.png") in out


def test_sample_writes_pictures_and_arrays(finished: Path, tmp_path: Path, cli: Cli) -> None:
    for of in ("student", "teacher"):
        code, _, _ = cli("sample", finished, "-n", 5, "--labels", "0,1,2,3,4", "--of", of, "--out", tmp_path / f"{of}.npz")
        assert code == 0
        with np.load(tmp_path / f"{of}.npz", allow_pickle=False) as file:
            assert file["data"].shape == (5, 1, 8, 8)
            assert file["labels"].tolist() == [0, 1, 2, 3, 4]
    assert cli("sample", finished, "-n", 10, "--out", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_again_gives_the_same_scores(finished: Path, tmp_path: Path, cli: Cli) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = json.loads((run / "evaluation.json").read_text())
    assert cli("evaluate", run)[0] == 0
    after = json.loads((run / "evaluation.json").read_text())
    for kind in ("student", "teacher", "held_out"):
        assert after[kind]["frechet"] == before[kind]["frechet"]


def test_resume_of_a_finished_run_says_so(finished: Path, cli: Cli) -> None:
    code, out, _ = cli("resume", finished)
    assert code == 0
    assert "finished" in out


def test_a_run_is_a_teacher_and_a_student_for_others(finished: Path, tmp_path: Path, cli: Cli, small: list[str]) -> None:
    code, _, err = cli("distill", "--teacher", finished, "--student", finished, "--loss", "sid", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    one, two = (load_file(run / "teacher" / "model.safetensors") for run in (finished, tmp_path / "run"))
    assert all((one[key] == two[key]).all() for key in one)


def test_train_makes_a_run_without_a_student(tmp_path: Path, cli: Cli, small: list[str]) -> None:
    assert cli("train", "--family", "diffusion", "--data", "swiss-roll", "--steps", 3, "--out", tmp_path / "run", *small[8:])[0] == 0
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "student" not in report
    assert "w2" not in report["teacher"] or report["teacher"]["w2"] > 0


@pytest.mark.parametrize("family", ["flow", "diffusion", "diffusion-vp", "bridge", "interpolant"])
@pytest.mark.parametrize("data", ["digits", "digits-restore"])
def test_every_family_distils(tmp_path: Path, cli: Cli, small: list[str], family: str, data: str) -> None:
    code, _, err = cli("distill", "--teacher", family, "--data", data, "--out", tmp_path / "run", *small)
    assert (code, err) == (0, ""), err


@pytest.mark.parametrize(
    "piece",
    [
        "teacher.interpolant.name=trigonometric",
        "teacher.coupling.name=minibatch-ot",
        "teacher={objective: {name: data}, times: {t_min: 0.001}}",
        "teacher.network={name: unet, channels: 8}",
        "teacher.sampler={name: ode, method: dopri5}",
        "loss={name: realuid, alpha: 2, beta: 2, gamma: 0.5}",
        "loss={name: realuid, alpha: inf, beta: inf, gamma: 0.5}",
        "loss={name: fgm}",
        "loss={name: uid, space: data}",
        "loss.weight_power=0",
        "trainer.critic_steps=2",
        "student.t_start=0.9",
        "data.labels=false",
        "trainer.max_grad_norm=1",
        "trainer={critic_steps: 3, critic_steps_per_batch: 3}",
        "trainer={keep_best_by: frechet-raw, checkpoint_every: 10}",
        "trainer.engine={micro_batch_size: 7, precision: bf16, teacher_precision: bf16, checkpointing: true, split: true}",
        "trainer={on_alarm: roll-back, monitor_every: 10, extra_ema_decays: [0.9, 0.99], keep_last: 1}",
        "teacher.times={t_min: 0.01, t_max: 1.0, log_sigma: [0, 1]}",
    ],
)
def test_any_piece_can_be_replaced(tmp_path: Path, cli: Cli, small: list[str], piece: str) -> None:
    options = small[4:] if piece.startswith("teacher.network") else small  # the first four are the network's own
    code, _, err = cli("distill", "--out", tmp_path / "run", *options, "--set", piece)
    assert (code, err) == (0, ""), err


# -- wrong input -------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, float]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    }


WRONG: list[tuple[str, list[str], str]] = [
    ("unknown family", ["distill", "--teacher", "flwo"], "did you mean 'flow'"),
    ("unknown family for train", ["train", "--family", "difusion"], "did you mean 'diffusion'"),
    ("unknown student", ["distill", "--student", "onestp"], "did you mean 'onestep'"),
    ("unknown loss", ["distill", "--loss", "realuidd"], "did you mean 'realuid'"),
    ("unknown data", ["distill", "--data", "digts"], "did you mean 'digits'"),
    ("unknown network", ["distill", "--set", "teacher.network.name=unett"], "did you mean 'unet'"),
    ("unknown interpolant", ["distill", "--set", "teacher.interpolant.name=linaer"], "did you mean 'linear'"),
    ("unknown key", ["distill", "--set", "trainer.stpes=5"], "did you mean 'steps'"),
    ("unknown key of a family", ["distill", "--set", "teacher.netwrok={name: mlp}"], "did you mean 'network'"),
    ("unknown setting of a plugin", ["distill", "--set", "teacher.network.widht=5"], "did you mean 'width'"),
    ("metrics no list", ["distill", "--set", "evaluation.metrics=fid"], "evaluation.metrics must be a list, such as [frechet], got 'fid'"),
    ("log_sigma no pair", ["distill", "--set", "trainer.times.log_sigma=1"], "must be a list, such as [mean, std], got 1"),
    ("teacher a file without a name", ["distill", "--teacher", "mine.py"], "mine.py:NAME"),
    ("plugin of nobody", ["check", "interpolants", "lopsided"], "importing its module"),
    ("file of plugins missing", ["check", "plugins.py"], "there is no file plugins.py"),
    ("gamma for another alpha", ["distill", "--alpha", "2", "--gamma", "2"], "set gamma"),
    ("alpha not positive", ["distill", "--alpha", "-1"], "alpha and beta must be positive"),
    ("gamma outside", ["distill", "--gamma", "1.5"], "gamma must lie in (0, 1)"),
    ("alpha for a loss without", ["distill", "--loss", "uid", "--alpha", "2"], "no setting 'alpha'"),
    ("negative weight power", ["distill", "--loss", "uid", "--set", "loss.weight_power=-1"], "weight_power must be at least 0"),
    ("alpha not a number", ["distill", "--alpha", "two"], "two"),
    ("negative steps", ["distill", "--steps", "-5"], "steps must be at least 1, got -5"),
    ("steps not a number", ["distill", "--set", "trainer.steps=many"], "trainer.steps"),
    ("batch zero", ["distill", "--set", "trainer.batch_size=0"], "trainer.batch_size must be at least 1"),
    ("negative seed", ["distill", "--seed", "-1"], "--seed"),
    ("unknown device", ["distill", "--device", "gpu9"], "device 'gpu9' is not available"),
    ("set without value", ["distill", "--set", "trainer.steps"], "PATH=VALUE"),
    ("set of a group", ["distill", "--set", "trainer=5"], "trainer must be a group of settings"),
    ("missing config", ["distill", "--config", "no.yaml"], "no.yaml cannot be read"),
    ("config with a typo", ["distill", "--config", "{typo}"], "did you mean 'trainer'"),
    ("config that is no mapping", ["distill", "--config", "{list}"], "must hold a mapping"),
    ("NaN in the data", ["distill", "--data", "{nan}"], "NaN or infinite values in 1 of 9"),
    ("npz without data", ["distill", "--data", "{nodata}"], "must hold an array 'data'"),
    ("broken npz", ["distill", "--data", "{broken}"], "not a readable file of plain arrays"),
    ("empty folder", ["distill", "--data", "{empty}"], "holds no images"),
    ("unwritable folder", ["distill", "--out", "{file}/run"], "cannot be written"),
    ("run that is there", ["distill", "--out", "{run}"], "holds a run already"),
    ("missing run", ["resume", "{empty}/none"], "there is no run"),
    ("missing run to sample", ["sample", "{empty}/none"], "there is no run"),
    ("missing run to evaluate", ["evaluate", "{empty}/none"], "there is no run"),
    ("unfinished run", ["sample", "{cut}"], "matchlib resume"),
    ("labels out of range", ["sample", "{run}", "--labels", "10"], "from 0 to 9"),
    ("labels not numbers", ["sample", "{run}", "--labels", "cat"], "--labels must be"),
    ("no samples", ["sample", "{run}", "-n", "0"], "at least 1"),
    ("unknown kind", ["sample", "{run}", "--of", "critic"], "student or teacher"),
    ("unknown format", ["sample", "{run}", "--out", "a.gif"], ".png or .npz"),
    ("teacher of another shape", ["distill", "--teacher", "{run}", "--data", "moons"], "made for events of shape"),
    ("corrupted weights", ["sample", "{corrupt}"], "cannot be read"),
    ("weights of another network", ["sample", "{swapped}"], "do not fit its config.json"),
    ("configuration that is no JSON", ["sample", "{noconfig}"], "cannot be read"),
    ("checkpoint damaged", ["resume", "{damaged}"], "cannot be loaded"),
    ("paired without source", ["distill", "--set", "teacher.coupling.name=paired"], "reads a source"),
    ("dropped labels", ["distill", "--set", "teacher.training.label_dropout=1.5"], "must be less than 1, got 1.5"),
    ("guidance that is no number", ["distill", "--set", "teacher.guidance=strong"], "teacher.guidance"),
    ("guidance of an untaught teacher", ["distill", "--set", "teacher.guidance=2"], "trained with dropped labels"),
    ("balance without classes", ["distill", "--data", "moons", "--set", "data.balanced=true", "--set", "data.labels=false"], "no classes"),
    ("heads that are one", ["distill", "--set", "teacher.objective={name: joint, parts: [data]}"], "at least two different rows"),
    ("transport of pairs without a source", ["distill", "--set", "teacher.coupling.name=minibatch-ot-data"], "has none"),
    ("pairs that are not there", ["distill", "--data", "pairs:nowhere"], "no images"),
    ("a teacher file that is not there", ["distill", "--teacher", "no.py:teacher"], "there is no file no.py"),
    ("steps of ddim", ["distill", "--set", "teacher.sampler={name: ddim, steps: 0}"], "steps must be at least 1"),
    ("objective that is not there", ["distill", "--set", "teacher.objective.name=noise"], "noise is not a prediction"),
    ("space that is not determined", ["distill", "--set", "loss.space=drift"], "no prior process"),
    ("reading that is singular at an end", ["distill", "--set", "teacher.objective.name=data"], "teacher.times.t_min=0.001"),
    ("unknown space", ["distill", "--set", "loss.space=velocty"], "did you mean 'velocity'"),
    ("unknown method", ["distill", "--set", "teacher.sampler={name: ode, method: rk5}"], "method must be one of"),
    ("sampler that does not fit", ["distill", "--set", "teacher.sampler.name=ancestral"], "use the sampler ode or sde"),
    ("start after the teacher's times", ["distill", "--set", "teacher.times.t_max=0.5", "--set", "student.t_start=0.6"], "in (0, 0.5]"),
    ("times outside the teacher's", ["distill", "--set", "teacher.times.t_max=0.5", "--set", "trainer.times.t_max=0.6"], "in [0, 0.5]"),
    ("noise below none", ["distill", "--teacher", "diffusion", "--set", "teacher.sigma_min=-0.01"], "0 < sigma_min < sigma_max"),
    ("a process that grows too fast", ["distill", "--set", "teacher.interpolant={name: linear-sde-bridge, rate: -45}"], "from -40 to 40"),
    ("guidance in an interval alone", ["distill", "--set", "teacher.guidance_interval=[0.1, 0.8]"], "set teacher.guidance"),
    ("guidance that is no number", ["distill", "--set", "teacher.guidance=nan"], "guidance"),
    ("times that are no numbers", ["distill", "--set", "trainer.times.log_sigma=[nan, 1]"], "log_sigma"),
    ("a weight below none", ["distill", "--set", "loss={name: sid, a: -3}"], "a must be positive"),
    (
        "one sample at a time for data that must mix",
        [
            *("distill", "--data", "digits-restore", "--set", "teacher.coupling.name=independent-data"),
            *("--set", "teacher.sees_source=false", "--set", "trainer.batch_size=1"),
        ],
        "needs at least 2, got 1",
    ),
    ("start outside", ["distill", "--set", "student.t_start=2"], "t_start must lie in"),
    ("unet for points", ["distill", "--data", "moons", "--set", "teacher.network={name: unet}"], "use mlp"),
    ("unknown recipe", ["distill", "--recipe", "corect"], "did you mean 'correct'"),
    ("no rate", ["distill", "--set", "trainer.critic_lr_scale=0"], "trainer.critic_lr_scale must be greater than 0"),
    ("unknown critic", ["distill", "--set", "trainer.critic_network.name=mpl"], "did you mean 'mlp'"),
    ("ramp outside", ["distill", "--set", "loss.ramp=2"], "ramp must lie in"),
    ("unknown metric", ["distill", "--set", "evaluation.metrics=[fid]"], "'fid' is not registered"),
    ("judge without a better side", ["distill", "--set", "trainer.keep_best_by=nearest-ratio"], "has no better side; choose one of"),
    ("unknown judge", ["distill", "--set", "trainer.keep_best_by=fid"], "'fid' is not registered"),
    ("unknown precision", ["distill", "--set", "trainer.engine.precision=fp8"], "precision must be one of"),
    ("unknown precision of the teacher", ["distill", "--set", "trainer.engine.teacher_precision=fp8"], "precision must be one of"),
    ("unknown mode", ["distill", "--set", "trainer.engine.compile=fast"], "compile must be one of"),
    ("no micro-batch", ["distill", "--set", "trainer.engine.micro_batch_size=0"], "micro_batch_size must be at least 1"),
    ("unknown way of several processes", ["distill", "--set", "trainer.engine.parallel=dpp"], "did you mean 'ddp'"),
    ("unknown policy", ["distill", "--set", "trainer.on_alarm=panic"], "on_alarm must be one of"),
    ("no reuse", ["distill", "--set", "trainer.critic_steps_per_batch=0"], "critic_steps_per_batch must be at least 1"),
    ("an average that never moves", ["distill", "--set", "trainer.extra_ema_decays=[1.0]"], "must be less than 1"),
    ("plan of a file that is not there", ["plan", "{base}/none.yaml"], "none.yaml"),
    ("memory that is none", ["plan", "{typo}", "--memory", "much"], "memory"),
    ("unknown command", ["distil"], "distil"),
    ("unknown option", ["distill", "--stepz", "5"], "--stepz"),
    ("unknown group", ["plugins", "interpolant"], "did you mean 'interpolants'"),
    ("check of nothing", ["check"], "GROUP NAME, FILE.py, or --all"),
    ("check of an unknown plugin", ["check", "interpolants", "linaer"], "did you mean 'linear'"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> dict[str, Path]:
    """Everything broken that a user may point at."""
    base = tmp_path_factory.mktemp("wrong")
    made = {name: base / name for name in ("run", "cut", "corrupt", "swapped", "noconfig", "damaged", "empty")}
    for name in ("run", "cut", "corrupt", "swapped", "noconfig", "damaged"):
        shutil.copytree(finished, made[name])
    made["empty"].mkdir()
    for path in ("student", "teacher"):
        shutil.rmtree(made["cut"] / path)
    weights = made["corrupt"] / "student" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    config = json.loads((made["swapped"] / "student" / "config.json").read_text())
    config["network"]["width"] = 8
    (made["swapped"] / "student" / "config.json").write_text(json.dumps(config))
    (made["noconfig"] / "student" / "config.json").write_text("{")
    (made["damaged"] / "evaluation.json").unlink()
    shutil.rmtree(made["damaged"] / "student")
    last = sorted((made["damaged"] / "checkpoints").glob("student-*"))[-1]
    last.write_bytes(last.read_bytes()[:300])
    x = np.random.default_rng(0).standard_normal((9, 2))
    np.savez(base / "nan.npz", data=np.where(np.arange(18).reshape(9, 2) == 3, np.nan, x))
    np.savez(base / "nodata.npz", images=x)
    (base / "broken.npz").write_text("not a zip")
    (base / "file").write_text("")
    (base / "typo.yaml").write_text("trianer: {steps: 5}\n")
    (base / "list.yaml").write_text("- 1\n")
    files = {"nan": "nan.npz", "nodata": "nodata.npz", "broken": "broken.npz", "file": "file", "typo": "typo.yaml", "list": "list.yaml"}
    return made | {key: base / name for key, name in files.items()} | {"base": base}


@pytest.mark.parametrize(("argv", "message"), [pytest.param(argv, message, id=name) for name, argv, message in WRONG])
def test_wrong_input_is_refused_in_a_line_and_harms_nothing(
    places: dict[str, Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(places["base"])
    code, _, err = cli(*(part.format(**places) if part.startswith("{") and " " not in part else part for part in argv))
    assert code == 2, err
    assert message in err
    assert len(err.strip().splitlines()) <= 2
    assert "Traceback" not in err
    assert snapshot(places["base"]) == before
    assert not list(tmp_path.iterdir())


# -- interruption ------------------------------------------------------------------------------------------------------

SLOW = [
    "--data", "moons", "--set", "teacher.network={name: mlp, width: 8, depth: 1}", "--set", "teacher.training.steps=150",
    "--set", "teacher.training.batch_size=16", "--set", "trainer.steps=150", "--set", "trainer.batch_size=16",
    "--set", "trainer.log_every=10",
    "--set", "trainer.checkpoint_every=7", "--set", "teacher.training.checkpoint_every=7",
    "--set", "teacher.training.log_every=10", "--set", "evaluation.draws=1", "--set", "evaluation.metrics=[frechet-raw]",
]  # fmt: skip


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}


def weights(run: Path) -> dict:
    return {kind: load_file(run / kind / "model.safetensors") for kind in ("teacher", "student")}


def wait_for(path: Path, pattern: str, count: int) -> None:
    end = time.time() + 60
    while len(list(path.glob(pattern))) < count:
        assert time.time() < end, f"no {pattern} in {path}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    base = tmp_path_factory.mktemp("straight")
    subprocess.run([*MATCHLIB, "distill", "--out", base / "run", *SLOW], check=True, capture_output=True, env=environment(base / "cache"))
    return weights(base / "run")


def start(run: Path, env: dict[str, str]) -> subprocess.Popen:
    command = [*MATCHLIB, "distill", "--out", str(run), *SLOW]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True)


@pytest.mark.parametrize(
    ("phase", "checkpoints", "delay"),
    [
        pytest.param("teacher", 1, 0.0, marks=pytest.mark.slow),
        pytest.param("teacher", 2, 0.03, marks=pytest.mark.slow),
        pytest.param("student", 1, 0.0, marks=pytest.mark.slow),
        ("student", 2, 0.05),
        pytest.param("none", 0, 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, uninterrupted: dict, phase: str, checkpoints: int, delay: float) -> None:
    run, env = tmp_path / "run", environment(tmp_path / "cache")
    process = start(run, env)
    if checkpoints:
        wait_for(run / "checkpoints", f"{phase}-*.safetensors", checkpoints)
    else:
        wait_for(run, "config.yaml", 1)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert not (run / "evaluation.json").exists()
    subprocess.run([*MATCHLIB, "resume", run], check=True, capture_output=True, env=env)
    for kind, tensors in weights(run).items():
        assert all((tensors[key] == uninterrupted[kind][key]).all() for key in tensors), kind


def test_an_interrupt_writes_a_checkpoint_and_exits_130(tmp_path: Path, uninterrupted: dict) -> None:
    import signal

    run, env = tmp_path / "run", environment(tmp_path / "cache")
    process = subprocess.Popen(
        [*MATCHLIB, "distill", "--out", run, *SLOW], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True
    )
    wait_for(run / "checkpoints", "student-*.safetensors", 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"matchlib resume {run}" in err
    subprocess.run([*MATCHLIB, "resume", run], check=True, capture_output=True, env=env)
    assert all((x == uninterrupted["student"][key]).all() for key, x in weights(run)["student"].items())


def test_divergence_exits_3_and_names_the_checkpoint(tmp_path: Path, cli: Cli, small: list[str]) -> None:
    code, _, err = cli(
        "distill", "--data", "moons", "--out", tmp_path / "run", *small, "--set", "trainer.student_lr=1e30", "--set", "trainer.steps=400"
    )
    assert code == 3
    assert "last good checkpoint" in err or "no checkpoint" in err


def test_check_reports_laws_and_fails_when_one_does(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = cli("check", "interpolants", "linear")
    assert code == 0
    assert out.strip().splitlines()[-1].endswith("checks, 0 failed")
    from matchlib.algebra.rows import Coefficients
    from matchlib.plugins.interpolants import Linear

    monkeypatch.setattr(Linear, "coefficients", lambda self, t: Coefficients(t, 1.0 - t, t, 0.0, derivatives=lambda: (1.0, 1.0, 0.0)))
    code, out, _ = cli("check", "interpolants", "linear")
    assert code == 1
    assert re.search(r"[1-9] failed", out)


def test_plugins_lists_every_group(cli: Cli) -> None:
    code, out, _ = cli("plugins")
    assert code == 0
    assert "families: bridge, diffusion, diffusion-vp, flow, gaussian, interpolant" in out
    assert "linear:" in cli("plugins", "interpolants")[1]


def test_one_command_starts_and_restarts_a_run(tmp_path: Path, cli: Cli, uninterrupted: dict) -> None:
    """What a scheduler that restarts jobs needs."""
    run, env = tmp_path / "run", environment(tmp_path / "cache")
    process = start(run, env)
    wait_for(run / "checkpoints", "student-*.safetensors", 1)
    process.kill()
    process.wait()
    code, _, err = cli("distill", "--out", run, "--resume", *SLOW, "--seed", "5")
    assert code == 2
    assert "a run with other settings (seed)" in err
    for _ in range(2):  # the second finds a finished run
        subprocess.run([*MATCHLIB, "distill", "--out", run, "--resume", *SLOW], check=True, capture_output=True, env=env)
    for kind, tensors in weights(run).items():
        assert all((tensors[key] == uninterrupted[kind][key]).all() for key in tensors), kind


PLUGINS = """
import matchlib, numpy as np

@matchlib.datasets.register("ring-of-{name}")
def ring(samples: int = {samples}) -> matchlib.Dataset:
    "Points on a circle."
    angle = np.random.default_rng(0).uniform(0, 6.3, samples)
    return matchlib.Dataset.from_arrays("ring", np.stack([np.cos(angle), np.sin(angle)], 1))
"""


def test_check_of_a_file_checks_the_plugins_that_it_registers(tmp_path: Path, cli: Cli) -> None:
    import matchlib

    file = tmp_path / "rings.py"
    file.write_text(PLUGINS.format(name="file", samples=200))
    try:
        code, out, err = cli("check", file)
        assert (code, err) == (0, "")
        assert "ring-of-file" in out and "moons" not in out
        assert out.strip().endswith("0 failed")
    finally:
        matchlib.datasets.unregister("ring-of-file")
    for text, said in (("import no_such_module", "ModuleNotFoundError"), ("x = 1", "registers no plugin")):
        file.write_text(text)
        code, _, err = cli("check", file)
        assert code == 2 and said in err and err.count("\n") == 1


INTERPOLANT = """
from dataclasses import dataclass
import matchlib

@matchlib.interpolants.register("bent")
@dataclass(frozen=True)
class Bent(matchlib.ScheduledInterpolant):
    "a = 1 - t^2, b = t."
    def schedule(self, t):
        return 1 - t**2, t, 0.0
"""


def test_a_plugin_of_a_file_is_known_to_the_commands_that_name_the_file(tmp_path: Path, small: list[str]) -> None:
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(INTERPOLANT)
    begin = ["distill", "--data", "moons", "--out", str(run), *small, "--set", "teacher.interpolant.name=bent"]

    def told(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*MATCHLIB, *arguments], check=False, capture_output=True, text=True)
        return done.returncode, done.stderr

    code, err = told(*begin)
    assert code == 2 and "'bent' is not registered" in err and "--plugins FILE.py" in err and not run.exists()
    assert told(*begin, "--plugins", str(file)) == (0, "")
    out = str(tmp_path / "out.npz")
    code, err = told("sample", str(run), "-n", "2", "--out", out)
    assert code == 2 and "--plugins FILE.py" in err and err.count("\n") == 1
    assert told("sample", str(run), "-n", "2", "--out", out, "--plugins", str(file)) == (0, "")
    assert np.load(out)["data"].shape == (2, 2)
