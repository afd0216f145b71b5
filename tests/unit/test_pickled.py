"""Pickles of networks as EDM's code writes them: weights come out, and no code runs."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from matchlib.adapters.pickled import read_network_pickle
from matchlib.errors import ArtifactError


@pytest.fixture
def persistence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for the modules that EDM's pickles name, there only while one is written."""
    names = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}

    def _reconstruct_persistent_obj(meta: dict) -> None:
        raise AssertionError("code of the pickle was run")

    class EasyDict(dict):
        pass

    for made, name in ((_reconstruct_persistent_obj, "torch_utils.persistence"), (EasyDict, "dnnlib.util")):
        made.__module__, made.__qualname__ = name, made.__name__
        setattr(names[name], made.__name__, made)
    for name, module in names.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield names
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


def persistent(module: nn.Module, source: str = "import os; os.abort()") -> Any:
    """A module, and those in it, as the decorated classes pickle themselves."""

    class Pickled:
        def __reduce__(self) -> Any:
            state = dict(module.__dict__)
            state["_modules"] = {name: persistent(part) for name, part in module._modules.items() if part is not None}
            meta = {"type": "class", "version": 6, "module_src": source, "class_name": type(module).__name__, "state": state}
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None

    return Pickled()


def network() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4))
    outer = nn.Module()
    outer.model, outer.sigma_min, outer.steps = inner, np.float64(0.002), np.arange(3)
    outer.register_buffer("kept", torch.arange(4.0))
    outer.register_buffer("passing", torch.zeros(2), persistent=False)
    return outer


def test_weights_come_out_as_state_dict_names_them(tmp_path: Path, persistence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, file = network(), tmp_path / "edm.pkl"
    tree = {"ema": persistent(net), "loss_fn": persistent(nn.Linear(1, 1)), "dataset_kwargs": persistence["dnnlib.util"].EasyDict(path="x")}
    file.write_bytes(pickle.dumps(tree))
    for name in persistence:
        monkeypatch.delitem(sys.modules, name)
    found, expected = read_network_pickle(file), net.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], x) for key, x in expected.items())
    assert read_network_pickle(file, "ema.model").keys() == net.model.state_dict().keys()  # type: ignore[union-attr]
    assert read_network_pickle(file, "loss_fn").keys() == {"weight", "bias"}
    with pytest.raises(ArtifactError, match=r"has no network 'eam' .*did you mean 'ema'"):
        read_network_pickle(file, "eam")


class _Evil:
    def __reduce__(self) -> tuple:
        return (open, ("evil", "w"))


def test_what_is_not_known_is_refused_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.pkl").write_bytes(pickle.dumps({"ema": _Evil()}))
    code, _, err = cli("convert", "bad.pkl", "--out", "a.safetensors")
    assert code == 2 and "it names io.open, which is not made here" in err and "--unpickle" in err
    assert not Path("evil").exists() and not Path("a.safetensors").exists()
    for content in (b"", b"\x80", b"text", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3]):
        Path("bad.pkl").write_bytes(content)
        code, _, err = cli("convert", "bad.pkl", "--out", "a.safetensors")
        assert code == 2 and err.count("\n") == 1, content


def test_convert_writes_the_weights_of_a_pickle(tmp_path: Path, persistence: Any, monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    net = network()
    Path("edm.pkl").write_bytes(pickle.dumps({"ema": persistent(net)}))
    for name in persistence:
        monkeypatch.delitem(sys.modules, name)
    code, out, _ = cli("convert", "edm.pkl", "--out", "edm.safetensors")
    assert code == 0 and "wrote edm.safetensors" in out
    assert all(torch.equal(load_file("edm.safetensors")[key], x) for key, x in net.state_dict().items())
