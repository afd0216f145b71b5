"""The page of one run, and of several side by side."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError
from matchlib.evaluation.advice import advice
from matchlib.evaluation.pictures import mosaic
from matchlib.evaluation.plots import Line, line_plot, plane_plot, short
from matchlib.evaluation.score import OWN
from matchlib.io import write_text
from matchlib.registry import metrics
from matchlib.runs.build import GIVEN, names_code
from matchlib.runs.page.curves import alarm_section, alarms_of, curve_section, number, values_of
from matchlib.runs.page.texts import definitions, model_section, plain_value, table
from matchlib.runs.record import Record, group, read_record
from matchlib.runs.scoring import PROTOCOL, compare, generators
from matchlib.runs.settings import RunSettings, plain

__all__ = ["PAGE", "comparison_page", "run_page", "write_page"]

PAGE = "report.html"
PIXELS = 150_000  # of a grid of pictures, at most: pages stay below 3 MB
PICTURE = 1_500_000  # bytes of samples.png, at most, where it stands for the samples
PLANE = 500  # points of the plane that are drawn of each kind
SIGNALS = 16  # events drawn as lines
BINS = 40  # of a histogram
NOT_SCORES = ("nfe", "seconds", "intervals", "shares", "frechet_by_class")


def write_page(folders: Sequence[str | Path], out: Path | None = None) -> Path:
    """Writes the page of a run, or one that compares several, and returns its path.

    Args:
        folders: of runs.
        out: FILE.html; None for ``report.html`` in the folder of a single run, or in the working directory.

    Raises:
        SettingError: ``out`` is no FILE.html.
        ArtifactError: there is no run, or the page cannot be written.
    """
    if out is not None and out.suffix != ".html":
        raise SettingError(f"--out must end in .html, got {str(out)!r}")
    records = [read_record(folder) for folder in folders]
    if not records:
        raise SettingError("a page takes at least one run")
    single = len(records) == 1
    path = out or (records[0].folder / PAGE if single else Path("comparison.html"))
    try:
        page = run_page(records[0]) if single else comparison_page(records)
    except RecursionError as error:
        raise ArtifactError(f"{path} cannot be made: what the run's files hold is nested too deeply") from error
    write_text(path, page)
    return path


def _resource(name: str) -> str:
    return (files("matchlib.runs.page") / name).read_text(encoding="utf-8")


def _document(title: str, lead: str, tabs: Mapping[str, str]) -> str:
    """A whole page; nothing in it may be fetched, and no script but its own may run."""
    style, plot, script = (_resource(name) for name in ("style.css", "plot.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    shown = {name: content for name, content in tabs.items() if content}
    buttons = "".join(f'<button type="button" role="tab" aria-controls="tab-{i}">{escape(name)}</button>' for i, name in enumerate(shown))
    panels = "".join(f'<main role="tabpanel" id="tab-{i}">{content}</main>' for i, content in enumerate(shown.values()))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>{escape(title)}</title><style>{style}</style><style id="plot-style">{plot}</style></head><body>'
        f'<header><h1>{escape(title)}</h1><button type="button" id="theme">Light / dark</button><p class="lead">{lead}</p></header>'
        f'<nav role="tablist">{buttons}</nav>{panels}<script>{script}</script></body></html>\n'
    )


def run_page(record: Record) -> str:
    """Returns the page of a run as HTML."""
    pictures, scores = _pictures(record), _scores({record.name: record})
    overview = f"<h2>From the same sources</h2>{pictures}{scores}{_against_evaluations({record.name: record})}{_cost(record)}"
    training = alarm_section(record) + curve_section(record)
    model = "<h2>What was distilled</h2>" + model_section(record.exhibit.about, record.settings)
    return _document(
        record.name,
        escape(f"{_lead(record)}; page of {time.strftime('%Y-%m-%d %H:%M')}"),
        {"Overview": overview, "Training": training, "Model": model, "Settings": _settings(record)},
    )


def _lead(record: Record) -> str:
    """What the run is, and how far it is, in a line."""
    teacher, student, data = (record.setting(group, "name") for group in ("teacher", "student", "data"))
    of = f"{student} student of a {teacher} teacher" if record.setting("command") == "distill" else f"{teacher} teacher"
    if record.evaluation:
        state = "finished"
    elif record.rows:
        last = record.rows[-1]
        state = f"{last['phase']} at step {last['step']} of {record.steps_of(last['phase'])}"
    else:
        state = "just begun"
    return f"{of} on {data}; {state}"


# -- pictures --------------------------------------------------------------------------------------------------------------


def _pictures(record: Record) -> str:
    """Data, teacher and student side by side: images as grids, points in the plane, anything else as lines."""
    tensors = record.exhibit.tensors
    panels = {name: tensors[name].numpy() for name in ("source", "data", "teacher", "student") if name in tensors}
    panels = {name: x for name, x in panels.items() if x.ndim > 1 and len(x)}
    if not panels:
        return _older_picture(record.folder / "samples.png")
    shown = {f"{name}{_evaluations(record, name)}": x for name, x in panels.items()}
    limits = record.exhibit.about.get("limits")
    if all(x[0].size == 2 for x in shown.values()):
        return f'<div class="grid">{_plane(shown, record)}</div>'
    return f'<div class="grid">{"".join(_panel(name, x, limits) for name, x in shown.items())}</div>'


def _older_picture(path: Path) -> str:
    """``samples.png`` itself, for a run that has no samples for its page."""
    try:
        content = path.read_bytes() if path.stat().st_size <= PICTURE else b""
    except OSError:
        content = b""
    if not content.startswith(b"\x89PNG"):
        return "<p>No samples were drawn yet.</p>"
    return f'<figure><img class="whole" alt="samples" src="data:image/png;base64,{base64.b64encode(content).decode()}"></figure>'


def _evaluations(record: Record, kind: str) -> str:
    nfe = group(record.evaluation, kind).get("nfe")
    return f", {nfe} evaluation{'s' if nfe > 1 else ''}" if isinstance(nfe, int) else ""


def _plane(panels: Mapping[str, np.ndarray], record: Record) -> str:
    flat = {name: x[:PLANE].reshape(len(x[:PLANE]), 2) for name, x in panels.items()}
    parts = [plane_plot(name, [(name, x)], within=np.concatenate(list(flat.values()))) for name, x in flat.items()]
    for name, path in record.exhibit.tensors.items():
        if name.startswith("trajectory/") and path.ndim == 3 and path.shape[2] == 2:
            ends = [("source", path[0].numpy()), ("sample", path[-1].numpy())]
            title = f"Trajectories of the {name.removeprefix('trajectory/')}, in the model's units"
            parts.append(plane_plot(title, ends, list(path.transpose(0, 1).numpy())))
    return "".join(parts)


def _panel(name: str, x: np.ndarray, limits: Any) -> str:
    if x.ndim != 4 or x.shape[1] not in (1, 3, 4):
        if x[0].size == 1:
            counts, edges = np.histogram(x[np.isfinite(x)], bins=BINS)
            line = Line("samples", ((edges[:-1] + edges[1:]) / 2).tolist(), counts.tolist())
            return line_plot(name, [line], x_label="value")
        events = x[:SIGNALS].reshape(len(x[:SIGNALS]), -1)
        return line_plot(name, [Line(str(i), range(events.shape[1]), event.tolist()) for i, event in enumerate(events)], x_label="entry")
    stride = max(1, math.ceil(math.sqrt(4 * x[0, 0].size / PIXELS)))
    x = x[:, :, ::stride, ::stride]
    x = x[: max(4, PIXELS // x[0, 0].size)]
    ends = limits if isinstance(limits, list) and len(limits) == 2 and limits[0] < limits[1] else (float(x.min()), float(x.max()) + 1e-9)
    tiles = mosaic(np.nan_to_num(x), (float(ends[0]), float(ends[1])))
    source = base64.b64encode(_png(tiles)).decode()
    return f'<figure><figcaption><b>{escape(name)}</b></figcaption><img alt="{escape(name)}" src="data:image/png;base64,{source}"></figure>'


def _png(image: np.ndarray) -> bytes:
    from PIL import Image  # imported here: only pages with pictures need it

    out = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(out, "png", optimize=False)
    return out.getvalue()


# -- scores, cost ----------------------------------------------------------------------------------------------------------


def _scores(records: Mapping[str, Record]) -> str:
    """Scores with intervals, of each run's generators and of held-out data, in a table."""
    scored = {name: record.evaluation for name, record in records.items() if record.evaluation}
    columns: dict[str, Mapping[str, Any]] = {}
    for name, evaluation in scored.items():
        several = f"{name} " if len(records) > 1 else ""
        columns |= {f"{several}{kind}": evaluation[kind] for kind in generators(evaluation)}
    held_out = {name: e["held_out"] for name, e in scored.items() if isinstance(e.get("held_out"), Mapping)}
    same = all(x == next(iter(held_out.values())) for x in held_out.values())
    columns |= {"held-out data" if same else f"{name} held-out data": x for name, x in held_out.items()}
    if not columns:
        return "<h2>Scores</h2><p>The run was not scored yet.</p>"
    keys = dict.fromkeys(key for column in columns.values() for key in column if key not in NOT_SCORES)
    rows = [[f"{escape(key)} <small>{_better(key)}</small>", *(_cell(column, key) for column in columns.values())] for key in keys]
    rows += [[escape(text), *(_cell(column, key) for column in columns.values())] for key, text in COSTS.items()]
    first = next(iter(scored.values()))
    protocol = ", ".join(f"{key.replace('_', ' ')} {plain_value(first.get(key))}" for key in PROTOCOL)
    try:
        note = advice(first) if len(records) == 1 else None
    except (TypeError, AttributeError, LookupError, ZeroDivisionError):
        note = None
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    intervals = "In brackets: 95% intervals over draws. " if any("intervals" in column for column in columns.values()) else ""
    return f"<h2>Scores</h2>{table(['', *map(escape, columns)], rows)}<p><small>{intervals}Protocol: {escape(protocol)}.</small></p>{said}"


QUALITY = "frechet"


def _against_evaluations(records: Mapping[str, Record]) -> str:
    """A distance over the number of evaluations: of every student, and of teachers with as many steps as they were scored at."""
    lines = []
    for name, record in records.items():
        several = f"{name} " if len(records) > 1 else ""
        rows = {kind: row for kind in generators(record.evaluation) if number((row := record.evaluation[kind]).get("nfe")) >= 1}
        teachers = sorted((number(row["nfe"]), number(row.get(QUALITY))) for kind, row in rows.items() if kind != "student")
        lines.append(Line(f"{several}teacher", [nfe for nfe, _ in teachers], [value for _, value in teachers]))
        if "student" in rows:
            lines.append(Line(f"{several}student", [number(rows["student"]["nfe"])], [number(rows["student"].get(QUALITY))]))
    held_out = number(group(next(iter(records.values())).evaluation, "held_out").get(QUALITY))
    ends = [x for line in lines for x in line.x]
    if len(ends) < 2 or not math.isfinite(held_out):
        return ""
    floor = Line("held-out data", [min(ends), max(ends)], [held_out] * 2)
    plot = line_plot(f"{QUALITY} over the evaluations of a sample", [*lines, floor], x_label="evaluations", log=True)
    return f'<h2>Quality against evaluations</h2><div class="grid">{plot}</div>'


COSTS = {"nfe": "evaluations of a sample", "seconds": "seconds for 1,000 samples"}


def _better(key: str) -> str:
    try:
        return {-1: "lower is better", 1: "higher is better"}.get(metrics[key.replace("_", "-")].better, "")
    except MatchlibError:
        return ""


def _cell(column: Mapping[str, Any], key: str) -> str:
    value, intervals = number(column.get(key)), column.get("intervals")
    if not math.isfinite(value):
        return ""
    ends = intervals.get(key) if isinstance(intervals, Mapping) else None
    if not isinstance(ends, list) or len(ends) != 2:
        return short(value)
    return f"{short(value)}<br><small>[{', '.join(f'{number(end):.3g}' for end in ends)}]</small>"


def _cost(record: Record) -> str:
    """Seconds of each phase and the most memory, as far as they were recorded."""
    about = record.exhibit.about
    seconds, memory = group(about, "seconds"), group(about, "memory")
    pairs = [(f"{phase}, seconds", f"{number(value):.1f}") for phase, value in seconds.items()]
    pairs += [(f"peak memory, {place}", f"{number(value) / 2**20:,.0f} MiB") for place, value in memory.items()]
    return f"<h2>Time and memory</h2>{definitions(pairs)}" if pairs else ""


# -- settings --------------------------------------------------------------------------------------------------------------


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _settings(record: Record) -> str:
    """Settings that differ from the defaults, the machine, the versions, and the command that makes the run again."""
    defaults = dict(_leaves(plain(RunSettings())))
    changed = [(path, value) for path, value in _leaves(record.settings) if path != "out" and defaults.get(path) != value]
    rows = [[f"<code>{escape(path)}</code>", f"<code>{escape(plain_value(value))}</code>"] for path, value in changed]
    about = record.exhibit.about
    recorded = [*_leaves(group(about, "machine")), *_leaves(group(about, "versions"))]
    environment = [(key, escape(plain_value(value))) for key, value in recorded if key]
    return (
        f"<h2>Settings that differ from the defaults</h2>{table(['setting', 'value'], rows) if rows else '<p>None.</p>'}"
        f"<h2>Environment</h2>{definitions(environment) if environment else '<p>Not recorded.</p>'}"
        f"<h2>The command that makes it again</h2><pre>{escape(_again(record))}</pre>"
    )


def _again(record: Record) -> str:
    """The command that makes a run again, or the call where a command cannot."""
    config, teacher = str(record.folder / "config.yaml"), str(record.setting("teacher", "name"))
    if any(str(record.setting(part, "name")).startswith(GIVEN) for part in ("teacher", "data")):
        return f"made in Python, of objects that no file holds: matchlib.distill(TEACHER, DATA, config=yaml.safe_load(open({config!r})))"
    command = f"matchlib {shlex.quote(str(record.setting('command')))} --config {shlex.quote(config)} --out FOLDER"
    return f"{command} --trust" if names_code(teacher) or record.setting("evaluation", "extractor") not in (None, OWN) else command


# -- several runs ----------------------------------------------------------------------------------------------------------


def comparison_page(records: Sequence[Record]) -> str:
    """Returns a page that compares runs as HTML: scores, pictures, curves on common axes, settings that differ."""
    names = _distinct([record.name for record in records])
    named = dict(zip(names, records, strict=True))
    pictures = "".join(f"<h2>{escape(name)}</h2>{_pictures(record)}" for name, record in named.items())
    tabs = {
        "Scores": _agreement(records) + _scores(named) + _against_evaluations(named),
        "Pictures": pictures,
        "Training": _common_curves(named),
        "Settings": _differences(named),
    }
    return _document(f"Comparison of {len(records)} runs", escape("; ".join(f"{name}: {_lead(r)}" for name, r in named.items())), tabs)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of runs, with a number where two folders have the same one."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def _agreement(records: Sequence[Record]) -> str:
    """A note where scores were not made alike."""
    try:
        compare([record.folder for record in records])
    except IncompatibleError as error:
        return f'<p class="alarm">{escape(str(error))}</p>'
    except (MatchlibError, LookupError, TypeError):
        return '<p class="note">Not every run was scored yet.</p>'
    return ""


def _common_curves(named: Mapping[str, Record]) -> str:
    parts = []
    phases = dict.fromkeys(phase for record in named.values() for phase in reversed(record.phases))
    for phase in phases:
        rows = {name: record.of(phase) for name, record in named.items()}
        keys = dict.fromkeys(key for part in rows.values() for row in part for key in row)
        shown = [key for key in keys if key.startswith(("loss/", "grad_norm/", "monitor/"))]
        plots = "".join(line_plot(key, [Line(name, *values_of(part, key)) for name, part in rows.items()]) for key in shown)
        rang = {name: len(list(alarms_of(part))) for name, part in rows.items()}
        alarms = ", ".join(f"{name} {count}" for name, count in rang.items())
        parts.append(f'<h2>Training of the {escape(phase)}</h2><p>Alarms: {escape(alarms)}.</p><div class="grid">{plots}</div>')
    return "".join(parts)


def _differences(named: Mapping[str, Record]) -> str:
    trees = {name: dict(_leaves(record.settings)) for name, record in named.items()}
    paths = dict.fromkeys(path for tree in trees.values() for path in tree if path != "out")
    rows = [
        [f"<code>{escape(path)}</code>", *(f"<code>{escape(plain_value(tree.get(path)))}</code>" for tree in trees.values())]
        for path in paths
        if len({plain_value(tree.get(path)) for tree in trees.values()}) > 1
    ]
    return f"<h2>Settings that differ</h2>{table(['setting', *map(escape, named)], rows) if rows else '<p>None.</p>'}"
