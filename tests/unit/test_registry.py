"""Registries: names without imports, refusals with hints."""

from __future__ import annotations

import subprocess
import sys

import pytest

import matchlib
from matchlib.errors import SettingError, UnknownNameError
from matchlib.registry import Registry


def test_names_are_known_without_importing_torch() -> None:
    code = "import sys, matchlib; assert 'flow' in matchlib.families; assert list(matchlib.students); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'flwo' is not registered .*did you mean 'flow'.*register"):
        matchlib.families["flwo"]


def test_a_name_is_given_once() -> None:
    with pytest.raises(SettingError, match="already registered"):
        matchlib.interpolants.register("linear")(object)


def test_hyphen_and_underscore_are_one_name() -> None:
    assert matchlib.couplings["minibatch_ot"] is matchlib.couplings["minibatch-ot"]


def test_values_survive_their_description() -> None:
    for registry in (matchlib.interpolants, matchlib.couplings, matchlib.objectives, matchlib.losses, matchlib.samplers):
        for name in registry:
            value = registry[name]()
            assert registry.build(registry.describe(value)) == value


def test_an_unknown_setting_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no setting 'epsilom'.*did you mean 'epsilon'"):
        matchlib.interpolants.build({"name": "brownian-bridge", "epsilom": 1.0})


def test_every_group_of_the_contract_is_there() -> None:
    groups = "couplings interpolants objectives families students losses networks datasets samplers metrics"
    assert all(isinstance(getattr(matchlib, group), Registry) for group in groups.split())
