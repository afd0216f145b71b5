"""Do the laws notice? The code is broken in small ways, one at a time in a temporary copy, and the laws are run on the copy.

    python tests/mutants/mutants.py            all mutants, about 20 minutes on two cores; cached by the file that is broken (a law that
                                            was weakened calls for an empty cache)
    python tests/mutants/mutants.py --only 7   one of them; the results of the others stay as they are

Each mutant names the plugins whose laws are asked first; if none of these notices, the comparisons with
others' code (tests/oracles) and the closed forms of tests/unit are, and then every law. A mutant that nothing notices must
be listed in ``EXPLAINED`` with its reason, or the script exits with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLOSED_FORMS = [
    ROOT / "tests" / "oracles",
    *(
        ROOT / "tests" / "unit" / f"test_{name}.py"
        for name in ("gaussian", "interpolants", "objectives", "couplings", "losses", "rows", "span", "teacher", "distillation")
    ),
]


@dataclass(frozen=True)
class Mutant:
    """One small mistake.

    Args:
        what: in words.
        file: below ``matchlib/``.
        old, new: text that occurs exactly once, and what stands there instead.
        first: (group, plugin) whose laws are asked first.
    """

    what: str
    file: str
    old: str
    new: str
    first: tuple[tuple[str, str], ...]


UID, REAL, FLOW = ("losses", "uid"), ("losses", "realuid"), ("families", "flow")
CONTRAST, LOSS, PAIRING = "distillation/predictions.py", "distillation/loss.py", "distillation/distillation.py"
MODEL, CONVERT, ROWS, SPAN = "algebra/model.py", "algebra/convert.py", "algebra/rows.py", "algebra/span.py"


def _interpolant(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "plugins/interpolants.py", (("interpolants", name),)


def _objective(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "plugins/objectives.py", (("objectives", name),)


def _coupling(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "plugins/couplings.py", (("couplings", name),)


def _mutant(what: str, place: tuple[str, tuple[tuple[str, str], ...]], old: str, new: str) -> Mutant:
    return Mutant(what, place[0], old, new, place[1])


MUTANTS = [
    # the losses
    Mutant("sign of the square", CONTRAST, ".sub(d, alpha=square)", ".add(d, alpha=square)", (UID,)),
    Mutant("factor 2 of the target lost", CONTRAST, "(2 * target) * self.target", "target * self.target", (UID,)),
    Mutant("teacher minus critic", CONTRAST, "d = self.critic - self.teacher", "d = self.teacher - self.critic", (UID,)),
    Mutant("time weight dropped from a loss", CONTRAST, "return self.weight * (d * bracket)", "return 1.0 * (d * bracket)", (UID,)),
    Mutant(
        "time weight in one term only",
        CONTRAST,
        ".sub(d, alpha=square)",
        ".sub(square / self.weight * d if isinstance(self.weight, float) else square * d)",
        (UID,),
    ),
    Mutant("mean over event instead of sum", CONTRAST, "(d * bracket).flatten(1).sum(1)", "(d * bracket).flatten(1).mean(1)", (UID,)),
    Mutant(
        "gradient through the per-sample weight", CONTRAST, "(self.target - self.teacher).detach()", "(self.target - self.teacher)", (UID,)
    ),
    Mutant("per-sample weight upside down", CONTRAST, "** -power", "**power", (UID,)),
    Mutant(
        "per-sample weight on the critic",
        LOSS,
        "loss = -self.generated(generated)",
        "loss = -self.generated(generated) * generated.sample_weight(self.weight_power)",
        (UID,),
    ),
    Mutant("sign of the real term", LOSS, "loss - self.real(real)", "loss + self.real(real)", (REAL,)),
    Mutant("real term dropped", LOSS, "return loss - self.real(real) if real is not None and self.real else loss", "return loss", (REAL,)),
    Mutant(
        "critic minimises what the student minimises", LOSS, "loss = -self.generated(generated)", "loss = self.generated(generated)", (UID,)
    ),
    Mutant(
        "gamma ignored",
        "plugins/losses.py",
        "        return self.gamma",
        "        return min(self.alpha, 0.99)",
        (REAL,),
    ),
    Mutant(
        "alpha and beta swapped on real points",
        "plugins/losses.py",
        "(1 - self.alpha) / self._unit, (1 - self._beta)",
        "(1 - self._beta) / self._unit, (1 - self.alpha)",
        (REAL,),
    ),
    Mutant(
        "alpha and beta swapped on generated points",
        "plugins/losses.py",
        "self.alpha / self._unit, self._beta / self._unit)",
        "self._beta / self._unit, self.alpha / self._unit)",
        (REAL,),
    ),
    Mutant(
        "real term dropped at alpha = 1",
        "plugins/losses.py",
        "        return Quadratic(1 - self._gamma, (1 - self.alpha)",
        "        if self.alpha == 1:\n            return Quadratic(0.0, 0.0, 0.0)\n"
        "        return Quadratic(1 - self._gamma, (1 - self.alpha)",
        (REAL,),
    ),
    Mutant(
        "sign of the limit alpha = infinity",
        "plugins/losses.py",
        "Quadratic(1 - self._gamma, -1.0, -1.0)",
        "Quadratic(1 - self._gamma, 1.0, 1.0)",
        (REAL,),
    ),
    Mutant("units of alpha forgotten on real points", "plugins/losses.py", "(1 - self.alpha) / self._unit", "(1 - self.alpha)", (REAL,)),
    Mutant("a ramp of alpha, not of its inverse", "plugins/losses.py", "now = 1 / (1 + slope)", "now = 1 - slope", (REAL,)),
    Mutant("gamma lost on the ramp", "plugins/losses.py", "gamma=self._gamma, rescaled", "gamma=None, rescaled", (REAL,)),
    Mutant("gamma = 1.5 accepted", "plugins/losses.py", "0 < gamma < 1 or", "0 < gamma < 2 or", (REAL,)),
    Mutant(
        "SiD's linear part doubled", "plugins/losses.py", "Quadratic(self.a, 0.5, 0.5)", "Quadratic(self.a, 1.0, 1.0)", (("losses", "sid"),)
    ),
    Mutant("FGM's square halved", "plugins/losses.py", "Quadratic(2.0, 1.0, 1.0)", "Quadratic(1.0, 1.0, 1.0)", (("losses", "fgm"),)),
    # distillations
    Mutant(
        "latent reused as the joining source",
        PAIRING,
        "samples.source if self.model.coupling.paired else real.source",
        "samples.source",
        (FLOW, ("families", "bridge")),
    ),
    Mutant(
        "pairs broken", PAIRING, "samples.source if self.model.coupling.paired else real.source", "real.source", (("families", "bridge"),)
    ),
    Mutant(
        "critic and teacher swapped",
        PAIRING,
        "in (self._read_teacher, self._read_critic))",
        "in (self._read_critic, self._read_teacher))",
        (FLOW,),
    ),
    Mutant("state detached", PAIRING, "return points[0].state,", "return points[0].state.detach(),", (FLOW,)),
    Mutant(
        "target detached",
        PAIRING,
        "target, source = self.model.target(point), point",
        "target, source = self.model.target(point).detach(), point",
        (FLOW,),
    ),
    Mutant(
        "time weight of the distillation dropped",
        PAIRING,
        "Predictions(f, f_teacher, row, head.weight(at), *seen)",
        "Predictions(f, f_teacher, row, 1.0, *seen)",
        (("families", "bridge"),),
    ),
    Mutant(
        "pairs at another point lose their source",
        "algebra/model.py",
        "point.source, batch.label) if self.coupling.independent else",
        "point.source, batch.label) if True else",
        (("couplings", "paired"),),
    ),
    Mutant(
        "generated data as real data",
        PAIRING,
        "self.predictions(point, self.model.sample_path(real, generator=generator, like=point))",
        "self.predictions(point, point)",
        (FLOW,),
    ),
    Mutant(
        "the student learns in the critic's step",
        PAIRING,
        "no_grad():\n            samples",
        "enable_grad():\n            samples",
        (FLOW,),
    ),
    Mutant("times of the distillation ignored", PAIRING, "times=times or teacher.model.times", "times=teacher.model.times", (FLOW,)),
    Mutant(
        "labels lost on generated points",
        PAIRING,
        "replace(samples, source=source)",
        "replace(samples, source=source, label=None)",
        (FLOW,),
    ),
    Mutant(
        "teacher's input detached",
        "fields/teacher.py",
        "self.field(state, time, condition)",
        "self.field(state.detach(), time, condition)",
        (FLOW,),
    ),
    Mutant("teacher not frozen", "fields/teacher.py", ".eval().requires_grad_(False)", ".eval()", (FLOW,)),
    Mutant(
        "preconditioning: skip of the wrong sign",
        "fields/preconditioned.py",
        "row.dot(state) * (inner * inner)",
        "row.dot(state) * (inner * inner) * -1.0",
        (("objectives", "data"),),
    ),
    Mutant(
        "preconditioning: input not scaled",
        "fields/preconditioned.py",
        "inner = torch.as_tensor(state.dot(state)).rsqrt()",
        "inner = torch.as_tensor(state.dot(state)).rsqrt() ** 2",
        (("objectives", "data"),),
    ),
    Mutant(
        "student ignores its label",
        "plugins/students.py",
        "t, generator)\n        prediction = self.field(state, t, condition)",
        "t, generator)\n        prediction = self.field(state, t, Condition(None, condition.source))",
        (FLOW, ("students", "onestep")),
    ),
    # models
    Mutant(
        "time runs the other way",
        "plugins/interpolants.py",
        "Coefficients(t, 1.0 - t, t, 0.0, derivatives=lambda: (-1.0, 1.0, 0.0))",
        "Coefficients(t, t, 1.0 - t, 0.0, derivatives=lambda: (1.0, -1.0, 0.0))",
        (("interpolants", "linear"),),
    ),
    Mutant("sign of the velocity", "plugins/interpolants.py", "(-1.0, 1.0, 0.0)", "(1.0, -1.0, 0.0)", (("interpolants", "linear"),)),
    Mutant(
        "derivatives by half",
        "algebra/interpolant.py",
        "torch.autograd.grad(value.sum(), t, retain_graph=True)[0] if",
        "0.5 * torch.autograd.grad(value.sum(), t, retain_graph=True)[0] if",
        (("interpolants", "vp-cosine"),),
    ),
    Mutant(
        "re-noising without the noise term",
        "algebra/interpolant.py",
        "noise = draw_like(data, generator) if self.noisy else None\n        return self.coefficients(s)",
        "noise = torch.zeros_like(data)\n        return self.coefficients(s)",
        (("interpolants", "noisy-linear"),),
    ),
    Mutant(
        "pinned process: slope not squared",
        "algebra/pinned.py",
        "late = slope * slope * var + added",
        "late = slope * var + added",
        (("interpolants", "vp-linear"), ("interpolants", "linear-sde-bridge")),
    ),
    Mutant(
        "pinned process: variance of the prior",
        "algebra/pinned.py",
        "slope * var / late, var * added / late",
        "slope * var / late, var",
        (("interpolants", "brownian-bridge"),),
    ),
    _mutant("quarter circle runs to pi", _interpolant("trigonometric"), "0.5 * math.pi * t", "math.pi * t"),
    _mutant("VP: coefficient of the square", _interpolant("vp-linear"), "-0.25 * t * t", "-0.25 * t"),
    _mutant(
        "VP: variance without its factor 2",
        _interpolant("vp-linear"),
        "self.beta_min\n        return log_alpha.exp(), -torch.expm1(2.0 * log_alpha)",
        "self.beta_min\n        return log_alpha.exp(), -torch.expm1(log_alpha)",
    ),
    _mutant("cosine: variance with a cosine", _interpolant("vp-cosine"), "torch.sin(angle - first)", "torch.cos(angle - first)"),
    _mutant("VE: variance not squared", _interpolant("ve"), "(self.sigma_max * t**self.rho) ** 2", "self.sigma_max * t**self.rho"),
    _mutant("Brownian bridge: epsilon ignored", _interpolant("brownian-bridge"), "self.epsilon * t", "1.0 * t"),
    _mutant("noise that does not vanish at the data", _interpolant("noisy-linear"), "(math.pi * t).sin()", "(0.5 * math.pi * t).cos()"),
    _mutant(
        "bridge: rate not doubled in the variance",
        _interpolant("linear-sde-bridge"),
        "torch.expm1(-2 * self.rate * own)",
        "torch.expm1(-self.rate * own)",
    ),
    _mutant(
        "score without its sign",
        _objective("score"),
        "at.b / at.variance * -1.0, at.c / at.variance * -1.0",
        "at.b / at.variance, at.c / at.variance",
    ),
    _mutant("score of the noise by its variance", _objective("score"), "noise=-1.0 / at.c)", "noise=-1.0 / (at.c * at.c))"),
    _mutant("epsilon without its scale", _objective("epsilon"), "Row(0.0, at.b / std, at.c / std)", "Row(0.0, at.b, at.c)"),
    _mutant("drift along increasing time", _objective("drift"), "(-f - g2 / var) * at.state", "(f - g2 / var) * at.state"),
    _mutant("v with both signs equal", _objective("v"), "-1.0 * at.b", "1.0 * at.b"),
    _mutant("prior score by the standard deviation", _objective("prior-score"), "Row(data=alpha / var)", "Row(data=alpha / var.sqrt())"),
    _mutant("a weight that is negative", _objective("data"), "return 1.0 + at.a", "return 1.0 - 2.0 * at.a"),
    Mutant(
        "relation of a Gaussian source: sign",
        "algebra/coupling.py",
        "-1.0 * coefficients.b",
        "coefficients.b",
        (("objectives", "score"), ("objectives", "velocity")),
    ),
    Mutant(
        "conversion: coefficients in the wrong order",
        SPAN,
        "torch.linalg.cross(second, third), torch.linalg.cross(third, first)",
        "torch.linalg.cross(third, first), torch.linalg.cross(second, third)",
        (("objectives", "velocity"),),
    ),
    Mutant(
        "conversion: sign of the third coefficient",
        SPAN,
        "torch.linalg.cross(first, second)\n    volume",
        "torch.linalg.cross(second, first)\n    volume",
        (("objectives", "velocity"),),
    ),
    Mutant(
        "the source is forgotten in a conversion",
        CONVERT,
        "terms = (*terms, source)",
        "terms = (*terms, 0.0 * source)",
        (("objectives", "data"), ("objectives", "noise")),
    ),
    Mutant(
        "time mixed over the batch",
        ROWS,
        "return scalar.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))",
        "return scalar.mean().to(like.dtype).expand(len(like)).reshape(-1, *(1,) * (like.ndim - 1))",
        (("interpolants", "linear"),),
    ),
    Mutant(
        "model's loss without its weight",
        MODEL,
        "head.weight(point.coefficients) * square_norm(answer - row)",
        "1.0 * square_norm(answer - row)",
        (FLOW, ("families", "diffusion")),
    ),
    Mutant(
        "target evaluated as the state",
        MODEL,
        "[row(point.data, point.source, point.noise) for row",
        "[(row * 0.0 + point.coefficients.state)(point.data, point.source, point.noise) for row",
        (("objectives", "velocity"),),
    ),
    Mutant(
        "start: source scaled twice",
        MODEL,
        "return replace(at.state, data=0.0)(source, source, noise)",
        "return replace(at.state, data=0.0)(source, 1.1 * source, noise)",
        (("samplers", "ode"),),
    ),
    # couplings and samplers
    _mutant(
        "a source of variance 1.2",
        _coupling("independent"),
        "independent: ClassVar[bool] = True\n\n    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:\n"
        "        return draw_like(",
        "independent: ClassVar[bool] = True\n\n    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:\n"
        "        return 1.1 * draw_like(",
    ),
    _mutant(
        "pairs that are shifted by one", _coupling("paired"), "return _sources(self, batch)\n", "return _sources(self, batch).roll(1, 0)\n"
    ),
    _mutant("each sample meets its own source", _coupling("independent-data"), "_sources(self, batch).roll(1, 0)", "_sources(self, batch)"),
    _mutant("the plan is read along the other axis", _coupling("minibatch-ot"), "plan.argmax(1)", "plan.argmax(0)"),
    _mutant(
        "labels lost",
        _coupling("minibatch-ot"),
        "source[order.to(source.device)], batch.label)",
        "source[order.to(source.device)], None if batch.label is None else batch.label.roll(1, 0))",
    ),
    _mutant("one plan for all classes", _coupling("minibatch-ot"), "if label is None:", "if label is None or True:"),
    _mutant(
        "a sample's own source in its plan",
        _coupling("minibatch-ot-data"),
        ".roll(self.plan(len(batch.data)), 0)",
        "",
    ),
    _mutant("a mirror that turns signs", _coupling("mirror"), "Row(1.0, -1.0, 0.0)", "Row(1.0, 1.0, 0.0)"),
    # heads
    Mutant("heads in another order", ROWS, "else answer.unbind(1)", "else answer.flip(1).unbind(1)", (("objectives", "joint"),)),
    Mutant("only the first head is trained", MODEL, "in parts]).sum(0)", "in parts])[0]", (("objectives", "joint"),)),
    Mutant(
        "only the first head teaches the student",
        PAIRING,
        "map(loss.student_loss, self._by_head(point, critic, teacher, target))",
        "map(loss.student_loss, self._by_head(point, critic, teacher, target)[:1])",
        (("objectives", "joint"),),
    ),
    Mutant(
        "only the first head teaches the critic",
        PAIRING,
        "map(loss.critic_loss, at_generated, at_real)",
        "map(loss.critic_loss, at_generated[:1], at_real)",
        (("objectives", "joint"),),
    ),
    _mutant(
        "the velocity of another path",
        _objective("path-velocity"),
        "Row(velocity.data, velocity.source)",
        "Row(velocity.data, 0.5 * velocity.source)",
    ),
    Mutant(
        "guidance the other way",
        "fields/teacher.py",
        "prediction, self.guidance)",
        "prediction, 2 - self.guidance)",
        (FLOW,),
    ),
    _mutant("noise levels counted from the wrong end", _interpolant("vp-discrete"), "np.log1p(-betas)", "np.log1p(-betas[::-1])"),
    Mutant(
        "latents joined again at the same time",
        "plugins/samplers.py",
        "coefficients(s).state(data",
        "coefficients(t).state(data",
        (("samplers", "ddim"),),
    ),
    Mutant("half the score in the SDE", "plugins/samplers.py", "0.5 * g2 * score", "0.25 * g2 * score", (("samplers", "sde"),)),
    Mutant("noise by its variance", "plugins/samplers.py", "(g2 * dt).sqrt()", "(g2 * dt)", (("samplers", "sde"),)),
    Mutant(
        "the ODE runs with the wrong sign",
        "plugins/samplers.py",
        "return sampling.read(state, t.to(state.dtype)",
        "return -sampling.read(state, t.to(state.dtype)",
        (("samplers", "ode"),),
    ),
    Mutant(
        "ancestral steps skip one time",
        "plugins/samplers.py",
        "super().grid(model, like)[:-1]",
        "super().grid(model, like)[:-2]",
        (("samplers", "ancestral"),),
    ),
    Mutant(
        "an evaluation is not counted", "fields/sampler.py", "self.nfe += self.each", "self.nfe += self.nfe % 2", (("samplers", "sde"),)
    ),
    # the engine
    Mutant(
        "a split that forgets the first part",
        PAIRING,
        "[a + b for a, b in zip(slopes, _gradient(value, leaves), strict=True)]",
        "_gradient(value, leaves)",
        (UID, REAL),
    ),
    Mutant(
        "a split that counts the target twice",
        PAIRING,
        "critic, teacher, target.detach()), leaves)",
        "critic, teacher, target), leaves)",
        (UID, REAL),
    ),
    Mutant(
        "the slope counts twice",
        PAIRING,
        "return gradient * slope, None, None",
        "return 2 * gradient * slope, None, None",
        (UID, FLOW),
    ),
    Mutant(
        "two batches at the times of one",
        PAIRING,
        "torch.cat([point.time for point in points])",
        "torch.cat([points[0].time for _ in points])",
        (FLOW,),
    ),
    Mutant(
        "every part draws the first rows",
        "training/random.py",
        "whole[self.slice.begin : self.slice.end]",
        "whole[: self.slice.rows]",
        (REAL,),
    ),
    Mutant("every part has times of its own", "training/random.py", "torch.randint, stratified_uniform)", "torch.randint)", (REAL,)),
    Mutant(
        "a term of a row without its coefficient",
        ROWS,
        "torch.addcmul(total, expand(scalar, latent), latent)",
        "total + latent",
        (("interpolants", "linear"),),
    ),
]

EXPLAINED: dict[str, str] = {}

RUN = """
import json, sys
import matchlib, torch
from matchlib.testing.law import cases, check
assert matchlib.__file__.startswith(sys.argv[1]), matchlib.__file__
first = json.loads(sys.argv[2])
found, asked = [], 0
todo = [case for group, name in first for case in cases(group, name)] if first else list(cases())
for law, plugin in todo:
    outcome = check(law, plugin)
    asked += outcome.checks
    if not outcome.passed:
        found.append(f"{law.name} [{plugin}]")
        if len(found) == 3:
            break
print(json.dumps([asked, found]))
"""


def misplaced() -> list[str]:
    """Returns what is wrong with mutants whose text to replace does not occur exactly once in its file."""
    counts = ((mutant, (ROOT / "matchlib" / mutant.file).read_text().count(mutant.old)) for mutant in MUTANTS)
    return [f"{m.what}: the text to replace occurs {count} times in {m.file}" for m, count in counts if count != 1]


def laws_that_notice(mutant: Mutant) -> dict[str, Any]:
    """Applies a mutant to a copy of the library and returns the laws that fail, three at most."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "matchlib"
        shutil.copytree(ROOT / "matchlib", copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for first in (mutant.first, None, ()):
            if first is None:
                tests = [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-x",
                    "-p",
                    "no:cacheprovider",
                    *map(str, CLOSED_FORMS),
                ]
                run = subprocess.run(tests, env=environment, capture_output=True, text=True, check=False, cwd=folder)
                failed = re.findall(r"FAILED \S*::(\w+)", run.stdout)
                if failed:
                    return {"laws": [f"{name} [tests]" for name in failed]}
                continue
            command = [sys.executable, "-c", RUN, folder, json.dumps(first)]
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
            if run.returncode:
                return {"laws": ["the library does not start: " + run.stderr.strip().splitlines()[-1][:120]]}
            asked, found = json.loads(run.stdout.splitlines()[-1])
            if found:
                return {"laws": found, "checks": asked}
        return {"laws": [], "checks": asked}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.record import cell, merged, save

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants, from 1")
    parser.add_argument("--list", action="store_true", help="check that every text to replace is there, and stop")
    asked = parser.parse_args()
    if wrong := misplaced():
        raise SystemExit("\n".join(wrong))
    if asked.list:
        raise SystemExit(f"{len(MUTANTS)} mutants")
    chosen = [MUTANTS[i - 1] for i in asked.only] if asked.only else MUTANTS

    def row(mutant: Mutant) -> dict[str, Any]:
        text = sha256((ROOT / "matchlib" / mutant.file).read_bytes()).hexdigest()[:12]
        key = {"mutant": mutant.what, "old": mutant.old, "new": mutant.new, "file": text}
        found = cell(key, lambda: laws_that_notice(mutant))
        print(f"{mutant.what}: {', '.join(found['laws']) or 'NOTHING NOTICES'}", flush=True)
        return {"mutant": mutant.what, "file": mutant.file, "noticed by": found["laws"], "reason": EXPLAINED.get(mutant.what)}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(row, chosen))
    silent = [r["mutant"] for r in rows if not r["noticed by"]]
    known = {mutant.what for mutant in MUTANTS}
    kept = [row for row in merged("mutants", rows, "mutant") if row["mutant"] in known]
    save("mutants", kept, mutants=len(MUTANTS), run=len(kept), noticed=sum(bool(row["noticed by"]) for row in kept))
    print(f"{len(rows)} mutants, {len(rows) - len(silent)} noticed")
    raise SystemExit(1 if set(silent) - set(EXPLAINED) else 0)


if __name__ == "__main__":
    main()
