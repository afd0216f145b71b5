"""Laws of whole distillations, by Monte Carlo through the library's own losses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import BilinearLoss
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.teacher import Teacher
from matchlib.plugins.couplings import IndependentData, MinibatchOTData
from matchlib.plugins.losses import UID
from matchlib.plugins.objectives import Data
from matchlib.registry import families
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, mixtures, moderate_times, realuids
from matchlib.testing.world import AffineStudent, World, least

SIZE, ROUNDS = 1000, 20


@dataclass(frozen=True, eq=False)
class Setting:
    """A distillation whose laws are known, at one time.

    Args:
        model: the family's, with the one time.
        loss: without per-sample weight.
        real: law of the data, classes included.
        student: its law is known.
        teacher: law whose exact field is the teacher's.
    """

    model: MatchingModel
    loss: BilinearLoss
    real: Mixture
    student: AffineStudent
    teacher: Mixture
    time: float

    def made(self, shift: Tensor | None = None, stretch: Tensor | None = None) -> Mixture:
        """The student's law joined to its source, classes in the data's shares."""
        law_ = self.student.distribution(self.model.coupling, self.real, shift, stretch)
        return Mixture(self.real.weights.sum(1, keepdim=True).expand_as(law_.weights), law_.mean, law_.covariance)

    def world(self, label: int | None, shift: Tensor | None = None, stretch: Tensor | None = None) -> World:
        """The same distillation as integrals, for one class."""
        return World(self.model, self.real, self.made(shift, stretch), self.time, GaussianField(self.model, self.teacher), label)

    def expected(self, shift: Tensor, stretch: Tensor) -> Tensor:
        """The value, classes averaged with the data's shares, as a function of the student's parameters."""
        shares = self.real.weights.sum(1).tolist()
        labels = list(range(len(shares))) if len(shares) > 1 else [None]
        return sum(share * self.world(label, shift, stretch).value(self.loss) for share, label in zip(shares, labels, strict=True))

    def distillation(self) -> Distillation:
        """The library's own, with the exact teacher and the best critic."""
        best = self.world(None).best(self.loss)
        return Distillation(Teacher(GaussianField(self.model, self.teacher), self.model), self.student, best, self.loss)

    def batches(self, generator: torch.Generator) -> tuple[Batch, Batch]:
        prompt, real = (self.real.sample(SIZE, generator) for _ in range(2))
        return prompt, real


@st.composite
def settings(draw: st.DrawFn, name: str, loss: BilinearLoss | None = None) -> Setting:
    """A family's distillation with one component a class and up to two classes."""
    paired = draw(st.booleans())
    model = families[name]().model(paired=paired)
    if paired:
        model = replace(model, coupling=draw(st.sampled_from([model.coupling, IndependentData()])))
    time = draw(moderate_times(model))
    model = replace(model, times=TimeDistribution(time * (1 - 1e-9), time))
    classes = draw(st.sampled_from([2, 1]))  # hypothesis tries the first one first
    real = draw(mixtures(model.coupling, components=1, classes=classes))
    teacher = draw(mixtures(model.coupling, components=1, classes=classes)) if draw(st.booleans()) else real
    shift = torch.tensor([draw(st.floats(-1, 1)) for _ in range(classes)], dtype=torch.float64)
    student = AffineStudent(shift, draw(st.floats(0.2, 0.8)), draw(st.floats(0.4, 0.9)))
    return Setting(model, draw(realuids()) if loss is None else loss, real, student, teacher, time)


def _errors(found: list[Tensor], exact: Tensor) -> float:
    """The largest distance of the mean of rounds from the exact value, in standard errors."""
    rounds = torch.stack(found).reshape(len(found), -1)
    error = (rounds.mean(0) - exact.reshape(-1)).abs()
    return (error / (rounds.std(0) / len(rounds) ** 0.5 + 1e-9 * (1 + exact.reshape(-1).abs()))).max().item()


@law("families", tolerance=6.0, examples=5)
def the_best_critic_has_the_value(name: str, data: st.DataObject) -> float:
    """The library's critic loss at the best critic is minus the value by quadrature, labels and all, within 6 standard errors.

    Advice: The critic's loss through sampled points differs from its integral: check coupling, weight and labels of the family's model.
    """
    given = data.draw(settings(name))
    distillation, generator = given.distillation(), data.draw(generators())
    with torch.no_grad():
        batches = (given.batches(generator) for _ in range(ROUNDS))
        found = [-distillation.critic_loss(prompt=prompt, real=real, generator=generator) for prompt, real in batches]
        exact = given.expected(given.student.shift, given.student.stretch)
    return _errors(found, exact)


@law("families", tolerance=6.0, examples=5)
def student_gradients_are_those_of_the_value(name: str, data: st.DataObject) -> float:
    """At the best critic the gradient of the library's student loss, through state and target, is the gradient of the value.

    Advice: The gradient through state or target is cut or doubled: no detach in coupling, interpolant, objective or loss.
    """
    given = data.draw(settings(name))
    distillation, generator = given.distillation(), data.draw(generators())
    parameters = [given.student.shift, given.student.stretch]
    found = []
    for _ in range(ROUNDS):
        prompt, real = given.batches(generator)
        loss = distillation.student_loss(prompt=prompt, real=real, generator=generator)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    free = [x.detach().clone().requires_grad_(True) for x in parameters]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(given.expected(*free), free)])
    return _errors(found, exact)


@law("families", tolerance=5.0, examples=5)
def joined_sources_are_fresh(name: str, data: st.DataObject) -> float:
    """The source that joins a sample is the one it was made from if the coupling keeps pairs, and independent of it if not.

    Advice: The source that joins a sample is not what `coupling.paired` declares: set `paired` truthfully, and draw anew otherwise.
    """
    given = data.draw(settings(name))
    distillation, generator = given.distillation(), data.draw(generators())
    prompt, other = given.batches(generator)
    seed = data.draw(st.integers(0, 2**31))
    samples = distillation.generate(prompt, generator=torch.Generator().manual_seed(seed))
    made_from = samples.source
    assert made_from is not None
    point = distillation.sample_path(samples, real=other, generator=torch.Generator().manual_seed(seed + 1))
    if given.model.coupling.paired:
        return 0.0 if torch.equal(point.source, made_from) else 99.0
    if given.model.coupling.reads_source:
        transport = Distillation(distillation.teacher, given.student, distillation.critic, given.loss)
        transport.model = replace(given.model, coupling=MinibatchOTData(), objective=Data())
        joined = transport.sample_path(samples, real=other, generator=generator).source
        assert other.source is not None
        if not torch.isin(joined, other.source).all():
            return 99.0
    x, y = ((z - z.mean()) / z.std() for z in (point.source, made_from))
    return (x * y).mean().abs().item() * SIZE**0.5


@law("families", tolerance=0.0, examples=5)
def labels_matter(name: str, data: st.DataObject) -> float:
    """A student with its two classes swapped has the right law without labels (value 0) and the wrong one given them.

    Advice: The label does not reach the field: return it from the coupling's `pair`, with its own sample.
    """
    model = families[name]().model(paired=data.draw(st.booleans()))
    one = data.draw(mixtures(model.coupling, components=1))
    gap = data.draw(st.floats(0.5, 2))
    low, high = (replace(one.shifted(by), weights=torch.full_like(one.weights, 0.5)) for by in (-gap, gap))
    real, swapped = (_classes(*pair) for pair in ((low, high), (high, low)))
    loss, time = UID(weight_power=0.0), data.draw(moderate_times(model))
    blind, *seeing = (World(model, real, swapped, time, None, label).value(loss) for label in (None, 0, 1))
    return float(blind.abs() > 1e-9 or not all(value > 1e-6 for value in seeing))


def _classes(*laws: Mixture) -> Mixture:
    """One law whose classes are the components of given ones."""
    return Mixture(*(torch.cat([getattr(x, name) for x in laws]) for name in ("weights", "mean", "covariance")))


class _First(nn.Module):
    """A guided teacher asked for the class 0."""

    def __init__(self, field: nn.Module, model: MatchingModel, w: float) -> None:
        super().__init__()
        self.teacher = Teacher(field, model, guidance=w)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.teacher(state, time, replace(condition, label=torch.zeros(len(state), dtype=torch.long)))


@law("families", tolerance=0.0, examples=2)
def a_guided_teacher_leaves_a_positive_optimum(name: str, data: st.DataObject) -> float:
    """Guidance with w > 1 minimises no matching loss: the least value over Gaussian students stays positive; with w = 1 it is 0.

    Advice: Guidance changes nothing, or the exact teacher leaves a positive value: check how the model reads missing labels.
    """
    model = families[name]().model(paired=False)
    time, w = data.draw(moderate_times(model)), data.draw(st.floats(2, 4))
    real = _classes(*(replace(Mixture.normal(mean, 0.55), weights=torch.full((1, 1), 0.5, dtype=torch.float64)) for mean in (1.0, -1.5)))
    least = [_least(model, real, _First(GaussianField(model, real), model, weight), time) for weight in (1.0, w)]
    return float(not (least[0] < 1e-8 and least[1] > 1e-5))


def _least(model: MatchingModel, real: Mixture, teacher: nn.Module, time: float) -> float:
    """The least value of UID over students N(mean, std^2), by quadrature and L-BFGS."""
    first = Mixture(torch.ones(1, 1, dtype=torch.float64), real.mean[:1], real.covariance[:1])

    def value(knobs: Tensor) -> Tensor:
        return World(model, first, Mixture.normal(knobs[0], knobs[1].exp()), time, teacher).value(UID(weight_power=0.0))

    return least(value, (0.5, -0.3), rounds=40)[1]
