"""Trust: Python code runs only where the user named it in this call, or with trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures.runs import SMALL

import matchlib

QUICK = ["--data", "checkerboard", "--set", "data.samples=40", "--set", "evaluation.draws=1", "--set", "evaluation.metrics=[frechet-raw]"]
QUICK += ["--set", "trainer.batch_size=8", "--set", "student.network.name=mlp", "--steps", "2"]


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A run whose teacher is said to come from a file that leaves a mark where it is executed."""
    from matchlib.adapters.origin import _digest
    from matchlib.runs.artifact import CONFIG

    small = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 2, "evaluation.draws": 1}
    matchlib.train("flow", "checkerboard", out=tmp_path / "run", settings={**small, "data.samples": 40})
    code = tmp_path / "code.py"
    code.write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    path = tmp_path / "run" / "teacher" / CONFIG
    config = json.loads(path.read_text())
    config["network"] = {"name": None}
    config["origin"] = {"adapter": "python", "network": None, "path": str(code), "name": "teacher", "digest": _digest(code)}
    path.write_text(json.dumps(config))
    return tmp_path / "run"


@pytest.mark.parametrize("argv", [["distill", *QUICK, "--teacher"], ["doctor"], ["sample", "--of", "teacher"], ["evaluate"]])
def test_commands_run_no_code_of_an_artifact_without_trust(
    stranger: Path, cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*argv, stranger)
    assert (code, (tmp_path / "executed").exists()) == (2, False), err
    assert "trust" in err


def test_distill_runs_no_code_of_an_artifact_without_trust(stranger: Path, tmp_path: Path) -> None:
    with pytest.raises(matchlib.MatchlibError, match="trust"):
        matchlib.distill(stranger, "checkerboard", out=tmp_path / "mine")
    assert not (tmp_path / "executed").exists()


def test_distill_refuses_an_empty_name_of_a_folder(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("distill", "--out", "")
    assert (code, list(tmp_path.iterdir())) == (2, []), err


@pytest.mark.parametrize("argv", [["distill", "--config"], ["train", "--config"], ["plan"], ["resume"]])
def test_commands_run_no_code_of_a_configuration_without_trust(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Where nobody named the file on the command line, it is a stranger's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    tree = {"data": {"name": "checkerboard"}, "teacher": {"name": f"{tmp_path / 'code.py'}:teacher"}}
    (tmp_path / "config.yaml").write_text(json.dumps(tree))
    code, _, err = cli(*argv, tmp_path if argv == ["resume"] else "config.yaml")
    assert (code, err.count("\n"), (tmp_path / "executed").exists()) == (2, 1, False), err


@pytest.fixture
def extractor(tmp_path: Path) -> Path:
    """A network that takes a mean; its file is opened by torch alone."""
    path = tmp_path / "network.pt"
    torch.jit.trace(Mean(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).save(path)
    return path


class Mean(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.double().mean((2, 3))


@pytest.mark.parametrize("command", ["distill", "train"])
def test_network_of_features_in_a_configuration_needs_trust(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extractor: Path, command: str
) -> None:
    """What this very command names is its author's; what a file of settings names may be a stranger's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({**nested(SMALL), "evaluation": {"extractor": "network.pt", "draws": 1}}))
    steps = ["--set", "trainer.steps=12", "--set", "teacher.training.steps=2", "--set", "evaluation.metrics=[frechet]"]
    argv = [command, "--config", "config.yaml", *steps]
    code, _, err = cli(*argv, "--out", "a")
    assert (code, "trust" in err, (tmp_path / "a").exists()) == (2, True, False), err
    code, _, err = cli(*argv, "--out", "a", "--trust")
    assert code == 0, err
    code, _, err = cli(*argv, "--out", "b", "--set", "evaluation.extractor=network.pt")
    assert code == 0, err
    report = json.loads((tmp_path / "b" / "evaluation.json").read_text())
    assert report["features"].startswith("network.pt-")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the path in the settings is absolute
    code, _, err = cli("evaluate", tmp_path / "b")
    assert (code, "trust" in err) == (2, True), err
    code, _, err = cli("evaluate", tmp_path / "b", "--trust")
    assert code == 0, err


def test_plan_opens_no_network_of_features(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extractor: Path
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was opened"))
    (tmp_path / "config.yaml").write_text(json.dumps({"evaluation": {"extractor": str(extractor)}}))
    code, _, err = cli("plan", tmp_path / "config.yaml")
    assert code == 0, err


def test_a_file_without_a_network_is_refused_before_anything_is_trained(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "network.pt").write_bytes(b"nothing")
    code, _, err = cli("distill", "--set", f"evaluation.extractor={tmp_path / 'network.pt'}", "--out", tmp_path / "a")
    assert (code, "no TorchScript" in err, (tmp_path / "a").exists()) == (2, True, False), err


def nested(settings: dict[str, object]) -> dict[str, object]:
    """Settings by dotted path as a tree."""
    tree: dict[str, object] = {}
    for path, value in settings.items():
        *parents, last = path.split(".")
        node: dict[str, object] = tree
        for parent in parents:
            child = node.setdefault(parent, {})
            assert isinstance(child, dict)
            node = child
        node[last] = value
    return tree
