"""Words and formulas of a page: what plugins say of themselves, typeset, and tables. Whatever comes from a run's files is escaped."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import torch

from matchlib.distillation.predictions import Predictions
from matchlib.errors import MatchlibError
from matchlib.evaluation.plots import Line, line_plot
from matchlib.registry import ALL, families, interpolants
from matchlib.runs.record import group

__all__ = ["definitions", "model_section", "plain_value", "table", "typeset"]

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "epsilon": "ε", "sigma": "σ", "rho": "ρ", "pi": "π", "lambda": "λ"}
TIMES = 101  # at which coefficients are drawn
STATE = "state = a(t) data + b(t) source + c(t) noise"


def typeset(text: str) -> str:
    """Returns a line of documentation as HTML: Greek letters, exponents, indices, code."""

    def code(match: re.Match[str]) -> str:
        return f"<code>{_formula(match[1])}</code>"

    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    return "".join(re.sub(r"``(.+?)``", code, part) if i % 2 else _formula(part) for i, part in enumerate(parts))


def _formula(text: str) -> str:
    html = escape(text)
    html = re.sub(r"\b(" + "|".join(GREEK) + r")(?=\b|_)", lambda match: GREEK[match[1]], html)
    html = re.sub(r"(?<=[αβγεσρπλ])_(\w+)", r"<sub>\1</sub>", html)
    html = re.sub(r"\^\((-?\w+(?:/\w+)?)\)|\^(\w+)", lambda match: f"<sup>{match[1] or match[2]}</sup>", html)
    return html.replace("sqrt(", "√(").replace("&lt;d, ", "⟨d, ").replace("*&gt;", "*⟩")


def plain_value(value: Any) -> str:
    """Returns a setting's value in one line."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Returns terms and what they are; the latter is HTML already."""
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{html}</dd>' for term, html in pairs)}</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of HTML cells; every column but the first is of numbers."""
    top = _cells("th", head)
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(tag: str, row: Sequence[str]) -> str:
    return "".join(f"<{tag} class=n>{cell}</{tag}>" if i else f"<{tag}>{cell}</{tag}>" for i, cell in enumerate(row))


def said(group: str, spec: Any) -> str:
    """Returns a plugin's name, what its documentation says first, and its settings, as HTML; of what is no plugin its name alone."""
    if isinstance(spec, str):
        return f"<b>{escape(spec)}</b>"
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        return "not stated"
    name = spec["name"]
    try:
        documentation = inspect.getdoc(ALL[group][name]) or ""
    except MatchlibError:
        documentation = "not registered here"
    settings = ", ".join(f"{key} = {plain_value(value)}" for key, value in spec.items() if key != "name" and value is not None)
    more = f"<br><small>{escape(settings)}</small>" if settings else ""
    first = documentation.partition("\n\n")[0]
    return f"<b>{escape(name)}</b>: {typeset(first)}{more}"


def model_section(about: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Returns the matching model, the student and the loss in words and formulas, and the interpolant's coefficients as a plot."""
    model, teacher, student = group(about, "model"), group(settings, "teacher"), group(settings, "student")
    pieces = [(key, said(f"{key}s", model.get(key) or teacher.get(key))) for key in ("coupling", "interpolant", "objective")]
    data = f"<b>{escape(plain_value(group(settings, 'data').get('name')))}</b>, events of shape {escape(plain_value(about.get('shape')))}"
    pairs = [
        ("data", data),
        ("teacher", said("families", {"name": name} if (name := teacher.get("name")) in families else name)),
        *pieces,
        ("network", said("networks", about.get("network"))),
        ("sampler", said("samplers", about.get("sampler"))),
    ]
    if settings.get("command") == "distill":
        quadratic = (inspect.getdoc(Predictions.quadratic) or "").partition("\n\n")[0].removeprefix("Returns ")
        pairs += [
            ("student", said("students", {"name": student.get("name")})),
            ("loss", said("losses", settings.get("loss"))),
            ("q(square, teacher, target)", typeset(quadratic)),
        ]
    weights = group(about, "weights")
    if weights:
        pairs.append(("weights", escape(", ".join(f"{kind} {n:,}" for kind, n in weights.items() if isinstance(n, int)))))
    legend = f"<p>A state joins a pair: <code>{STATE}</code>. A row (x, y, z) means x data + y source + z noise.</p>"
    return legend + definitions(pairs) + f'<div class="grid">{_coefficients(model.get("interpolant"))}</div>'


def _coefficients(spec: Any) -> str:
    """How much of data, source and noise is in the state at each time, as a plot."""
    if not isinstance(spec, Mapping):
        return ""
    try:
        path = interpolants.build(spec)
        width = path.t_max - path.t_min
        t = torch.linspace(path.t_min + 1e-3 * width, path.t_max - 1e-3 * width, TIMES, dtype=torch.float64)
        at = path.coefficients(t)
        values = [torch.as_tensor(x, dtype=torch.float64).expand(TIMES).tolist() for x in (at.a, at.b, at.c)]
    except (MatchlibError, TypeError, ValueError, RuntimeError, AttributeError):
        return ""
    lines = [Line(name, t.tolist(), y) for name, y in zip(("a, of the data", "b, of the source", "c, of the noise"), values, strict=True)]
    return line_plot("What a state is made of", lines, x_label="t")
