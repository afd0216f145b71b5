"""Registries: names without imports, short names, refusals with hints."""

from __future__ import annotations

import subprocess
import sys

import pytest

import matchlib
from matchlib.errors import SettingError, UnknownNameError
from matchlib.registry import ALL, Registry


def test_registry_knows_names_without_importing_torch() -> None:
    code = "import sys, matchlib; assert 'flow' in matchlib.families; assert list(matchlib.students); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registry_refuses_an_unknown_name_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'flwo' is not registered .*did you mean 'flow'.*register"):
        matchlib.families["flwo"]


def test_register_refuses_a_name_that_is_taken() -> None:
    with pytest.raises(SettingError, match="already registered"):
        matchlib.interpolants.register("linear")(object)


def test_registry_takes_hyphen_and_underscore_as_one() -> None:
    assert matchlib.couplings["minibatch_ot"] is matchlib.couplings["minibatch-ot"]


def test_build_is_the_inverse_of_describe() -> None:
    for registry in (matchlib.interpolants, matchlib.couplings, matchlib.objectives, matchlib.losses, matchlib.samplers):
        for name in registry:
            value = registry[name]()
            assert registry.build(registry.describe(value)) == value


def test_build_refuses_an_unknown_setting_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no setting 'epsilom'.*did you mean 'epsilon'"):
        matchlib.interpolants.build({"name": "brownian-bridge", "epsilom": 1.0})


def test_registry_of_every_group_is_there() -> None:
    groups = "couplings interpolants objectives families students losses networks datasets samplers metrics"
    assert all(isinstance(getattr(matchlib, group), Registry) for group in groups.split())


def test_registry_has_plugins_as_attributes() -> None:
    assert matchlib.families.flow is matchlib.families["flow"]
    assert matchlib.couplings.minibatch_ot is matchlib.couplings["minibatch-ot"]
    assert {"flow", "diffusion_vp", "register"} <= set(dir(matchlib.families))
    with pytest.raises(AttributeError, match="did you mean 'flow'"):
        matchlib.families.flwo  # noqa: B018


def test_registry_names_every_plugin_that_its_files_register() -> None:
    """Names are read from the text of the files; what their import registers must be the same."""
    for registry in ALL.values():
        assert {registry.name_of(plugin) if isinstance(plugin, type) else name for name, plugin in registry.items()} == set(registry)


def test_register_refuses_a_builtin_name_before_anything_is_imported() -> None:
    code = """
import sys, matchlib
try:
    matchlib.interpolants.register("linear")(type("Linear", (), {}))
except matchlib.registry.SettingError:
    assert "torch" not in sys.modules
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", "import matchlib.registry\n" + code], check=True)


def test_unregister_frees_a_name() -> None:
    first, second = type("First", (), {}), type("Second", (), {})
    matchlib.interpolants.register("mine")(first)
    matchlib.interpolants.unregister("mine")
    assert "mine" not in matchlib.interpolants
    assert matchlib.interpolants.register("mine")(second) is second
    matchlib.interpolants.unregister("mine")


@pytest.mark.parametrize("spec", [{}, {"name": None}, {"name": 3}, {"epsilon": 1.0}])
def test_build_refuses_a_spec_without_a_name(spec: dict) -> None:
    with pytest.raises(SettingError, match="interpolants: a plugin is given by its name, such as 'brownian-bridge', got name="):
        matchlib.interpolants.build(spec)
