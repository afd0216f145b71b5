"""Registries: names without imports, short names, refusals with hints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import matchlib
from matchlib.adapters import open_teacher
from matchlib.errors import ArtifactError, MatchlibError, SettingError, UnknownNameError
from matchlib.registry import ALL, Registry, import_file


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


PLUGIN = """
import matchlib

@matchlib.datasets.register("{name}")
def made(samples: int = 50):
    "Points."
"""


def test_import_file_runs_a_file_once_and_says_what_it_registers(tmp_path: Path) -> None:
    file = tmp_path / "json.py"  # a name that another module bears
    file.write_text(PLUGIN.format(name="of-a-file"))
    assert import_file(file) == import_file(file) == [("datasets", "of-a-file")]
    assert json.loads("[]") == []
    matchlib.datasets.unregister("of-a-file")


def test_a_file_of_plugins_may_define_the_teacher_as_well(tmp_path: Path) -> None:
    """Named as --plugins and as FILE.py:NAME it is run once: a second time its names would be taken."""
    file = tmp_path / "both.py"
    made = "import matchlib, torch\nfield = torch.nn.Linear(1, 1)\nteacher = matchlib.adapters.torchcfm(field)\n"
    file.write_text(PLUGIN.format(name="of-both") + made)
    import_file(file)
    try:
        assert open_teacher(f"{file}:teacher", trust=True) is not None
        with pytest.raises(MatchlibError, match="--trust"):
            open_teacher(f"{file}:teacher", trust=False)
    finally:
        matchlib.datasets.unregister("of-both")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "bad.py fails: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "bad.py fails: SystemExit: 3"),
        ("def", "bad.py fails: SyntaxError"),
        (PLUGIN.format(name="digits"), "'digits' is already registered"),
    ],
)
def test_import_file_refuses_what_fails_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(MatchlibError, match=message):
        import_file(file)


def test_import_file_refuses_what_is_no_file_of_python(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    for path, message in (
        (tmp_path / "no.py", "there is no file"),
        (tmp_path, "there is no file"),
        (tmp_path / "x.txt", "FILE.py"),
        (Path("/proc/self/mem"), "FILE.py|no file"),
    ):
        with pytest.raises(ArtifactError, match=message):
            import_file(path)
