"""Wrong values, as text of a command line, as YAML, as JSON and as Python objects."""

from __future__ import annotations

import datetime
import decimal
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]

TEXTS = (
    "", " ", "null", "~", "true", "no", "yes", "0", "1", "-1", "2", "3.5", "1e-3", "1e400", "-1e400", "nan", ".nan", "inf", ".inf", "-.inf",
    "0x10", "0o7", "1_000", "1:30", "2020-01-01", "2020-01-01 10:00:00", "[]", "{}", "[1]", "[1, 2]", "[1, 2, 3]", "[a]", "[nan, nan]",
    "[.nan, 1]", "{name: mlp}", "{name: null}", "{name: [1]}", "{name: linear, a: 1}", "{1: 2}", "{null: 1}", "{[1, 2]: 3}",
    "{? {a: 1} : 2}",
    "&a [*a]", "*a", "!!python/object:os.system {}", "!!binary aGVsbG8=", "!!set {a}", "!!float x", "[", "{", "a: b: c", "'", '"', "%",
    "@x",
    "18446744073709551616", "9223372036854775808", "-9223372036854775809", "1000000000000", "1e30", "1e-300", "²", "٣", "\u200b",
    "\u0000", "\n",
    "é" * 300, "x" * 5000, "../..", "/", "/etc/passwd", "/proc/self/mem", "/dev/null", ".", "~", "~nobody-at-all/x", "a.b.c",
    "FILE.py:NAME",
    "edm:x", "azula:x", "diffusers:x", "vae:x", "vae:", "vae:images", "vae:vae",
    "pairs:x", "python:teacher", ":", "::", "x:", ":x", "1/0", "None", "mlp", "flow", "digits", "onestep",
    "[mlp, x]",
)  # fmt: skip

PLAIN = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18), 0.0, -0.0, 0.5, 1.5, -2.5, 1e-30, 1e30, 1e300,
    math.nan, math.inf, -math.inf, "", " ", "x", "1", "1e-3", "true", "nan", "inf", "null", "mlp", "linear", "x" * 3000, "é²\u0000", "../x",
    [], [None], [1], [1, 2], [1.0, math.nan], ["a"], [[1]], {}, {"name": None}, {"name": 1}, {"name": "mlp"}, {"name": "x"},
    {"a": {"b": 1}}, DEEP,
)  # fmt: skip


OBJECTS = (
    *PLAIN, b"bytes", (1, 2), {1, 2}, frozenset(), 1j, decimal.Decimal("NaN"), datetime.date(2020, 1, 1), Path("x"), object(), object, len,
    lambda: 1, range(3), np.float32("nan"), np.int64(3), np.zeros(3), np.zeros(0), np.array("x"), torch.tensor(1.0), torch.zeros(2, 2),
    torch.nn.Linear(1, 1), type, Ellipsis, NotImplemented, {1: 2}, {None: 1}, {("a",): 1}, iter([1]),
)  # fmt: skip


def mutated(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Returns a copy of a tree of plain values with one key or element wrong, and the path of it."""
    paths = list(_paths(tree))
    path = rng.choice(paths) if paths else ()
    how = rng.choice(("replace", "replace", "replace", "remove", "add", "rename"))
    value = rng.choice(PLAIN)
    return _changed(tree, path, how, value), f"{'.'.join(map(str, path))} {how} {str(value)[:40]!r}"


def _paths(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _changed(tree: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    key = path[0]
    if len(path) > 1:
        copy[key] = _changed(copy[key], path[1:], how, value)
    elif how == "replace" or isinstance(copy, list):
        copy[key] = value
    elif how == "add":
        copy[f"{key}x"] = value
    else:
        old = copy.pop(key)
        if how == "rename":
            copy[f"{key}_"] = old
    return copy


def damaged(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Returns bytes that are cut short, changed, or something else."""
    how = rng.choice(("empty", "cut", "flip", "noise", "doubled", "utf-16", "zeros", "inserted"))
    at = rng.randrange(len(content)) if content else 0
    result = {
        "empty": b"",
        "cut": content[:at],
        "flip": content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        "noise": rng.randbytes(64),
        "doubled": content * 2,
        "utf-16": content.decode("utf-8", "replace").encode("utf-16"),
        "zeros": bytes(len(content)),
        "inserted": content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:],
    }[how]
    return result, f"{how} at {at}"
