"""The laws can fail: each is broken once, on purpose, and must say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.algebra.convert import Conversion
from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch, Condition, Pair, PathSample
from matchlib.algebra.rows import Coefficients
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import Quadratic
from matchlib.distillation.predictions import Predictions
from matchlib.fields.exact import BestCritic, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.plugins.interpolants import Linear
from matchlib.plugins.losses import UID, RealUID
from matchlib.testing.law import LAWS, cases, check
from matchlib.testing.strategies import models

list(cases())  # enrols the laws


def fails(law: str, plugin: str) -> bool:
    return not check(LAWS[law], plugin).passed


@contextmanager
def registered(group: str, name: str, plugin: Any) -> Iterator[None]:
    registry = getattr(matchlib, group)
    registry.register(name)(plugin)
    try:
        yield
    finally:
        registry.unregister(name)


def test_a_dropped_real_term_breaks_stationarity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealUID, "real", property(lambda self: Quadratic(1 - self._gamma, 0.0, 0.0)))
    assert fails("teacher_is_stationary_on_its_own_law", "realuid")


def test_an_ignored_gamma_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealUID, "_gamma", property(lambda self: min(self.alpha, 0.99)))
    assert fails("gamma_matters", "realuid")
    assert fails("realuid_is_a_regression", "realuid")


def test_a_lost_factor_of_two_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def quadratic(self: Predictions, square: float, teacher: float, target: float) -> Tensor:
        d = self.critic - self.teacher
        return self.weight * (d * (target * self.target - teacher * self.teacher - square * d)).flatten(1).sum(1)

    monkeypatch.setattr(Predictions, "quadratic", quadratic)
    assert fails("per_sample_identity", "uid")


def test_a_wrong_derivative_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linear, "coefficients", lambda self, t: Coefficients(t, 1.0 - t, t, 0.0, derivatives=lambda: (1.0, 1.0, 0.0)))
    assert fails("derivatives_are_derivatives", "linear")


def test_a_reversed_time_is_noticed() -> None:
    @dataclass(frozen=True)
    class Reversed(ScheduledInterpolant):
        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return t, 1.0 - t, 0.0

    with registered("interpolants", "reversed", Reversed):
        assert fails("the_path_begins_at_the_data", "reversed")


def test_times_that_mix_are_noticed() -> None:
    @dataclass(frozen=True)
    class Mixed(ScheduledInterpolant):
        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return 1.0 - t * t.mean(), t, 0.0

    with registered("interpolants", "mixed", Mixed):
        assert fails("times_do_not_mix", "mixed")


def test_negative_noise_is_noticed() -> None:
    @dataclass(frozen=True)
    class Negative(ScheduledInterpolant):
        noisy = True

        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return 1.0 - t, t, -t * (1.0 - t)

    with registered("interpolants", "negative", Negative):
        assert fails("states_hold_their_noise", "negative")


def test_states_without_their_noise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    interpolate = MatchingModel.interpolate

    def quiet(self: MatchingModel, pair: Pair, t: Tensor, *, generator: torch.Generator) -> Any:
        point = interpolate(self, pair, t, generator=generator)
        return replace(point, state=point.coefficients.state(point.data, point.source, 0 * point.data))

    monkeypatch.setattr(MatchingModel, "interpolate", quiet)
    assert fails("states_hold_their_noise", "noisy-linear")


def test_an_idle_setting_is_named_with_the_values_that_were_tried() -> None:
    @dataclass(frozen=True)
    class Idle(ScheduledInterpolant):
        used: float = 1.0
        idle: float = 4.0

        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return 1.0 - t**self.used, t, 0.0

    with registered("interpolants", "idle", Idle):
        outcome = check(LAWS["every_setting_is_used"], "idle")
    assert outcome.message == "the setting 'idle' changes nothing: the path is the same at 2.0, 8.0"
    assert "remove it" in outcome.explanation


def test_an_explanation_says_what_failed_where_and_what_to_change() -> None:
    @dataclass(frozen=True)
    class Wrong(ScheduledInterpolant):
        scale: float = 0.5

        def coefficients(self, t: Tensor) -> Coefficients:
            return Coefficients(t, 1.0 - t, t, 0.0, derivatives=lambda: (-1.0, 1.0 + self.scale, 0.0))

        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return 1.0 - t, t, 0.0

    with registered("interpolants", "wrong", Wrong):
        text = check(LAWS["derivatives_are_derivatives"], "wrong").explanation
    assert "wrong fails derivatives_are_derivatives: the error is" in text
    assert "1e-06 is allowed" in text
    assert "Wrong(scale=" in text
    assert "state only `schedule`" in text


def test_every_law_has_a_statement_and_an_advice() -> None:
    assert all(law.statement and law.advice for law in LAWS.values())


def test_a_source_with_the_moments_of_a_gaussian_is_noticed() -> None:
    """Uniform numbers of variance 1."""

    @dataclass(frozen=True)
    class Uniform(Coupling):
        gaussian_source = True  # type: ignore[assignment]
        reads_source = False  # type: ignore[assignment]

        def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
            return Pair(batch.data, self.source(batch, generator=generator), batch.label)

        def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
            return 12**0.5 * (torch.rand(batch.data.shape, dtype=batch.data.dtype, generator=generator) - 0.5)

    with registered("couplings", "uniform", Uniform):
        assert fails("a_declared_gaussian_is_one", "uniform")


def test_a_network_that_takes_the_first_time_for_all_is_noticed() -> None:
    class OneTime(nn.Module):
        def __init__(self, spec: NetworkSpec) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
            return self.scale * state * time[0]

    with registered("networks", "one-time", OneTime):
        assert fails("networks_answer_sample_by_sample", "one-time")


def test_a_false_gaussian_is_noticed() -> None:
    @dataclass(frozen=True)
    class Copy(Coupling):
        gaussian_source = True  # type: ignore[assignment]
        reads_source = False  # type: ignore[assignment]

        def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
            return Pair(batch.data, batch.data.detach(), batch.label)

        def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
            return batch.data.detach()

    with registered("couplings", "copy", Copy):
        assert fails("a_declared_gaussian_is_one", "copy")


def test_a_detached_coupling_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    coupling = matchlib.couplings["paired"]
    pair = coupling.pair

    def detached(self: Any, batch: Batch, *, generator: torch.Generator) -> Pair:
        made = pair(self, batch, generator=generator)
        return Pair(0 * made.data + made.data.detach(), made.source, made.label)

    monkeypatch.setattr(coupling, "pair", detached)
    assert fails("gradient_reaches_the_data", "paired")


def test_a_wrong_conversion_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Conversion.coefficients
    monkeypatch.setattr(Conversion, "coefficients", lambda self, at: [1.01 * k for k in right(self, at)])
    assert fails("conversions_are_exact", "velocity")
    assert fails("conversions_hold_on_latents", "velocity")
    assert fails("reading_as_itself_changes_nothing", "velocity")


def test_a_student_that_learns_in_the_critic_turn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def critic_loss(self: Distillation, *, prompt: Batch, real: Batch, generator: torch.Generator) -> Tensor:
        point = self.sample_path(self.generate(prompt, generator=generator), real=real, generator=generator)
        ((predictions,),) = self.predictions(point)
        return self.loss.critic_loss(predictions, predictions).mean()

    monkeypatch.setattr(Distillation, "critic_loss", critic_loss)
    assert fails("turns_change_only_their_own_module", "flow")


def test_a_detached_state_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = Distillation.generate

    def detached(self: Distillation, prompt: Batch, *, generator: torch.Generator) -> Batch:
        samples = generate(self, prompt, generator=generator)
        return replace(samples, data=samples.data.detach())

    monkeypatch.setattr(Distillation, "generate", detached)
    assert fails("turns_change_only_their_own_module", "bridge")


# -- the Gaussian world --------------------------------------------------------------------------------------------------------


def test_a_detached_target_breaks_the_student_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    target = MatchingModel.target
    monkeypatch.setattr(MatchingModel, "target", lambda self, point: target(self, point).detach())
    assert fails("student_gradients_are_those_of_the_value", "flow")


def test_a_detached_state_breaks_the_student_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    sample_path = Distillation.sample_path

    def detached(self: Distillation, samples: Batch, *, real: Batch, generator: torch.Generator) -> PathSample:
        point = sample_path(self, samples, real=real, generator=generator)
        return replace(point, state=point.state.detach())

    monkeypatch.setattr(Distillation, "sample_path", detached)
    assert fails("student_gradients_are_those_of_the_value", "flow")


def test_another_critic_breaks_the_student_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BestCritic, "forward", lambda self, *point: self.teacher(*point) + 0.3)
    assert fails("student_gradients_are_those_of_the_value", "flow")
    assert fails("the_best_critic_has_the_value", "flow")
    assert fails("the_best_critic_is_stationary", "realuid")


def test_a_latent_reused_as_noise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third-party FGM joins a sample with the very latent that it was made from."""

    def sample_path(self: Distillation, samples: Batch, *, real: Batch, generator: torch.Generator) -> PathSample:
        assert samples.source is not None
        t = self.model.times.sample(self.model.interpolant, samples.data, generator)
        return self.model.interpolate(Pair(samples.data, samples.source, samples.label), t, generator=generator)

    monkeypatch.setattr(Distillation, "sample_path", sample_path)
    assert fails("joined_sources_are_fresh", "flow")
    assert fails("the_best_critic_has_the_value", "flow")


def test_a_weight_in_one_term_only_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time weight on the square but not on the linear terms."""

    def quadratic(self: Predictions, square: float, teacher: float, target: float) -> Tensor:
        d = self.critic - self.teacher
        linear = (2 * target) * self.target - (2 * teacher) * self.teacher
        return (d * (linear - 1.5 * square * d)).flatten(1).sum(1)

    monkeypatch.setattr(Predictions, "quadratic", quadratic)
    assert fails("data_free_gains_are_lower_bounds", "uid")


def test_sids_gradient_is_that_of_the_divergence_at_one_half_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the student's quadratic (a, 1/2, 1/2) the gradient is half the divergence's at a = 1/2, and not at a = 1.2."""
    for a, wrong in ((0.5, False), (1.2, True)):
        monkeypatch.setattr(RealUID, "student", property(lambda self, a=a: Quadratic(2 * a, 1.0, 1.0)))
        monkeypatch.setattr(RealUID, "generated", property(lambda self: Quadratic(1.0, 1.0, 1.0)))
        monkeypatch.setattr(RealUID, "real", property(lambda self: Quadratic(0.0, 0.0, 0.0)))
        assert fails("student_gradients_are_those_of_the_value", "flow") == wrong


@pytest.mark.parametrize("student", [(1.2, 1.0, 1.0), (2.0, 1.0, 1.0), (0.6, 0.5, 0.5), (1.2, 0.5, 0.5)])
def test_student_losses_at_the_best_critic_hold_for_any_multiple(student: tuple[float, float, float]) -> None:
    """An own loss with UID's critic is held to the multiple 2a - g of its own student's quadratic (g, a, a)."""
    with registered("losses", "own-student", _with_student(Quadratic(*student))):
        assert check(replace(LAWS["student_losses_at_the_best_critic"], examples=4), "own-student").passed


def test_student_losses_at_the_best_critic_notice_other_terms() -> None:
    """A student that weighs teacher and target differently, or that minimises another thing than its quadratic, is noticed."""

    class Doubled(UID):
        def student_loss(self, generated: Predictions) -> Tensor:
            return 2 * super().student_loss(generated)

    for broken in (_with_student(Quadratic(1.0, 1.0, 0.5)), Doubled):
        with registered("losses", "own-student", broken):
            assert not check(replace(LAWS["student_losses_at_the_best_critic"], examples=4), "own-student").passed


def _with_student(quadratic: Quadratic) -> type[UID]:
    """UID's critic with another student."""

    @dataclass(frozen=True)
    class Own(UID):
        @property
        def student(self) -> Quadratic:
            return quadratic

    return Own


def test_ignored_labels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = MatchingModel.condition
    monkeypatch.setattr(MatchingModel, "condition", lambda self, source, label: condition(self, source, None))
    assert fails("the_best_critic_has_the_value", "flow")


def test_a_score_that_is_no_score_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    score = matchlib.objectives["score"]
    row = score.row
    monkeypatch.setattr(score, "row", lambda self, model, at: 0.5 * row(self, model, at))
    assert fails("scores_are_gradients", "score")


def test_a_sampler_of_lower_order_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ode = matchlib.samplers["ode"]
    monkeypatch.setattr(ode, "order", property(lambda self: 3.0))
    assert fails("measured_order_is_the_declared_order", "ode")


def test_a_coupling_that_calls_its_pairs_independent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real points would then be placed at the sources of generated ones."""
    monkeypatch.setattr(matchlib.couplings["paired"], "independent", True)
    assert fails("points_beside_others_are_points", "paired")


def test_another_share_of_the_teacher_is_no_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixture with 1/alpha of the teacher is a zero; with nine tenths of that share it is not."""
    blend = Mixture.blend
    monkeypatch.setattr(Mixture, "blend", lambda self, other, share: blend(self, other, 0.9 * share))
    assert fails("the_optimum_is_a_mixture", "realuid")
    assert fails("the_optimum_is_a_mixture_in_any_dimension", "realuid")


def test_a_ramp_of_alpha_itself_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(self: RealUID, progress: float) -> RealUID:
        if progress >= self.ramp:
            return self
        now = 1 + (min(self.alpha, 1e6) - 1) * progress / self.ramp
        return replace(self, alpha=now, beta=now, ramp=0.0)

    monkeypatch.setattr(RealUID, "at", at)
    assert fails("a_ramp_runs_from_the_teacher_to_the_loss", "realuid")


def test_a_forgotten_unit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealUID, "_unit", property(lambda self: 1.0))
    assert fails("rescaling_only_changes_the_unit", "realuid")


def test_laws_go_on_beside_a_schedule_of_two_values() -> None:
    """A path that cannot be asked fails its own laws, with what it lacks, and none of another plugin's."""

    class Two(ScheduledInterpolant):
        def schedule(self, t: Tensor) -> Any:
            return 1 - t, t

    with registered("interpolants", "two", Two):
        (outcome,) = [check(law, name) for law, name in cases("interpolants", "two") if law.name == "states_hold_their_noise"]
        assert "schedule of Two returns a, b and c, got 2 values" in outcome.message
        models(coupling="mirror", objective="data")  # made without it


def test_an_explanation_names_the_drawn_quantities_of_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UID, "generated", property(lambda self: Quadratic(-1.0, 1.0, 1.0)))
    assert "time weight = " in check(LAWS["critic_has_a_maximum"], "uid").explanation
