"""Hooks of the documentation site: the generated reference, notebooks of the tutorials, formulas as MathML.

Nothing that is made here is committed. A page asks for generated text by a line ``<!-- generate: NAME -->``.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterator, Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any, get_type_hints

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- generate: (.+) -->$", re.MULTILINE)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```|``[^`]+``|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"\bhttps?://[^\s)>\]]+")


# -- pages -----------------------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Fills ``Research`` with the pages that are there."""
    pages = sorted((ROOT / "docs" / "research").glob("*.md"))
    entries = [f"research/{page.name}" for page in sorted(pages, key=lambda page: page.name != "index.md")]
    config.nav = [{"Research": entries} if item == {"Research": "research/"} else item for item in config.nav]
    config.nav = [item for item in config.nav if item != {"Research": []}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds a notebook for each tutorial."""
    from mkdocs.structure.files import File

    for page in sorted((ROOT / "docs" / "tutorials").glob("*.md")):
        content = notebook(page.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"tutorials/{page.stem}.ipynb", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in what is generated, and names files outside the site instead of linking to them."""
    markdown = MARK.sub(lambda match: generated(match[1]), markdown)
    source = page.file.src_uri
    if source.startswith("tutorials/"):
        title, _, rest = markdown.partition("\n")
        stem = posixpath.basename(source).removesuffix(".md")
        markdown = f"{title}\n\n[Download as a notebook]({stem}.ipynb){{ .md-button }}\n{rest}"

    def inside(match: re.Match[str]) -> str:
        bang, text, target = match.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), target.partition("#")[0]))
        if bang or target.startswith(("http", "#", "mailto:")) or path.startswith("docs/"):
            return match[0]
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return text if path in text.strip("`") else f"{text} (`{path}`)"

    parts = CODE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(inside, part) for i, part in enumerate(parts))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Turns formulas into MathML."""
    from latex2mathml.converter import convert

    def formula(match: re.Match[str]) -> str:
        text = unescape(match[2].strip())
        display = text.startswith(r"\[")
        return convert(text[2:-2].strip(), display="block" if display else "inline")

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', formula, html, flags=re.DOTALL)


def notebook(markdown: str) -> str:
    """Returns a tutorial as a notebook: text, and a cell for each Python snippet."""
    import nbformat

    cells: list[Any] = []
    last = 0
    for match in FENCE.finditer(markdown):
        if match[1] != "python":
            continue
        cells += [nbformat.v4.new_markdown_cell(_portable(markdown[last : match.start()])), nbformat.v4.new_code_cell(match[2].rstrip())]
        last = match.end()
    cells.append(nbformat.v4.new_markdown_cell(_portable(markdown[last:])))
    cells = [cell for cell in cells if cell.source]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"  # the same bytes for the same page
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    book = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.validate(book)
    return nbformat.writes(book)


def _portable(text: str) -> str:
    """Text for outside the site: links to its pages and pictures are left out."""
    text = re.sub(r"^!\[.*?\]\(.*?\)\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\[[^\]]*\]", r"\1", text)
    return LINK.sub(lambda match: match[0] if match[3].startswith("http") else match[2], text).strip()


# -- generated text --------------------------------------------------------------------------------------------------------


def generated(name: str) -> str:
    """Returns the text of a mark: ``settings``, ``commands``, ``plugins``, ``public`` or ``file PATH``."""
    kind, _, argument = name.partition(" ")
    return "\n".join({"settings": settings, "commands": commands, "plugins": plugins, "public": public, "file": included}[kind](argument))


def included(path: str) -> Iterator[str]:
    """A file of the repository, without its title."""
    yield (ROOT / path).read_text(encoding="utf-8").partition("\n")[2]


def cell(text: object) -> str:
    """Text that may stand in a cell of a table."""
    parts = re.split(r"(``.+?``|`[^`]+`)", " ".join(str(text).split()))
    return "".join(_bars(part) if i % 2 else escape(part, quote=False).replace("|", "\\|") for i, part in enumerate(parts))


def _bars(code: str) -> str:
    """Code that may stand in a cell: a bar in it cannot be escaped in Markdown."""
    return f"<code>{escape(code.strip('`'), quote=False).replace('|', '&#124;')}</code>" if "|" in code else code


def _angles(text: str) -> str:
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(part if i % 2 else escape(part, quote=False) for i, part in enumerate(parts))


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table, with an empty line before and after it."""
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def settings(_: str = "") -> Iterator[str]:
    """Every setting of the JSON schema, a table for each group."""
    from matchlib.runs.settings import RunSettings

    schema = RunSettings.model_json_schema(mode="validation")
    yield from _group(schema, schema["$defs"], "")


def _group(node: Mapping[str, Any], shared: Mapping[str, Any], path: str) -> Iterator[str]:
    inner: list[tuple[str, Mapping[str, Any]]] = []
    rows = []
    for key, given in node["properties"].items():
        field = {**_target(given, shared), **given}
        full = f"{path}.{key}" if path else key
        if "properties" in field:
            inner.append((full, field))
            if given.get("default", 0) is not None:
                continue
        rows.append((f"`{full}`", cell(_type(given, shared)), cell(_default(field)), cell(field.get("description", ""))))
    if rows:
        doc = "" if not path else " ".join(str(node.get("description", "")).split())
        yield from (f"## {path or 'The run'}", "", escape(doc.partition("Raises:")[0], quote=False))
        yield from table(("setting", "type and range", "default", "what it is"), rows)
    for full, field in inner:
        yield from _group({**_target(field, shared), "description": field.get("description", "")}, shared, full)


def _target(field: Mapping[str, Any], shared: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a field refers to, itself or as one of several."""
    for choice in (field, *field.get("allOf", ()), *field.get("anyOf", ())):
        if "$ref" in choice:
            found: Mapping[str, Any] = shared[choice["$ref"].rpartition("/")[2]]
            return found
    return {}


def _type(field: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    if "$ref" in field:
        target = shared[field["$ref"].rpartition("/")[2]]
        return "a group" if "properties" in target else _type(target, shared)
    if "anyOf" in field:
        return " or ".join(_type(choice, shared) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        return f"({', '.join(_type(item, shared) for item in items)}{'' if 'prefixItems' in field else ', ...'})"
    names = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "null": "`null`",
        "object": "a spec",
    }
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in bounds.items() if key in field and abs(field[key]) < 1e18]
    return " ".join([names.get(str(field.get("type")), "anything"), ", ".join(limits)]).strip()


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {x:g}" if isinstance(x, float) else f"{key}: {x}" for key, x in value.items()) + "}"
    return f"`{text if text is not None else f'{value:g}' if isinstance(value, float) else value}`"


def commands(_: str = "") -> Iterator[str]:
    """Every command with its arguments and options, from the functions that the commands are."""
    from matchlib_cli.commands import COMMANDS

    for command in COMMANDS:
        hints = get_type_hints(command, include_extras=True)
        declared = [(hints[name], p.default) for name, p in inspect.signature(command).parameters.items()]
        arguments = [hint.__metadata__[0].metavar for hint, _ in declared if not _declared_names(hint)]
        yield from (f"## {command.__name__}", "", _angles(inspect.getdoc(command) or ""), "", "```text")
        yield from (" ".join(["matchlib", command.__name__, *arguments, *["[OPTIONS]"] * (len(arguments) < len(declared))]), "```")
        rows = [_option(hint, default) for hint, default in declared]
        if rows:
            yield from table(("option", "what it is", "default"), rows)


def _option(hint: Any, default: object) -> tuple[str, str, str]:
    kind, info = hint.__origin__, hint.__metadata__[0]
    names = ", ".join(_declared_names(hint) or [info.metavar])
    several = " (repeatable)" if "list" in str(kind) else ""
    value = next((word for word in ("int", "float", "Path", "str") if word in str(kind)), "")
    shown = {"int": " N", "float": " NUMBER", "Path": " PATH", "str": " TEXT"}.get(value, "") if _declared_names(hint) else ""
    given = str(default) if isinstance(default, int | float | str | Path) and not isinstance(default, bool) and str(default) else ""
    return f"`{names}{shown}`{several}", cell(info.help or ""), f"`{given}`" if given else ""


def _declared_names(hint: Any) -> list[str]:
    """Names of an option, none of an argument; in an annotation the first one stands where a default would."""
    info = hint.__metadata__[0]
    return [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str) and name.startswith("-")]


SINGULAR = {"families": "family", "losses": "loss", "datasets": "data set"}


def plugins(_: str = "") -> Iterator[str]:
    """All plugins of all groups: a table each, then each with its docstring and settings."""
    from matchlib.registry import ALL

    for group, registry in ALL.items():
        names = [name for name in registry if _module(registry[name]).startswith(f"matchlib.{registry.home}.")]
        yield from (f"## {group}", "", f"Registry `matchlib.{group}`, entry points `matchlib.{group}`.")
        yield from table(
            (SINGULAR.get(group, group.removesuffix("s")), "in a line", "settings and defaults"),
            [(f"[`{name}`](#{group}-{name})", cell(_summary(registry[name])), _settings_of(group, registry[name])) for name in names],
        )
        for name in names:
            yield from (f"### {name} {{ #{group}-{name} }}", "", *_docstring(registry[name]), "")


def _function(plugin: Any) -> Any:
    return getattr(plugin, "function", plugin)


def _module(plugin: Any) -> str:
    return str(_function(plugin).__module__)


def _summary(plugin: Any) -> str:
    return (inspect.getdoc(_function(plugin)) or "").partition("\n\n")[0].replace("\n", " ")


def _settings_of(group: str, plugin: Any) -> str:
    from matchlib.registry import fields_of

    if group in ("metrics", "tasks"):
        return ""
    fields = {name: p.default for name, p in fields_of(plugin).items() if p.default is not p.empty}
    shown = [f"`{name}={value!r}`" if "factory" not in repr(value) else f"`{name}`" for name, value in fields.items()]
    return ", ".join(shown).replace("|", "\\|")


def _docstring(plugin: Any) -> Iterator[str]:
    """The docstring of a plugin in Markdown: sections as lists."""
    section = False
    for line in (inspect.getdoc(_function(plugin)) or "").splitlines():
        text = _angles(line.strip())
        text = LINE.sub(lambda match: f"<{match[0]}>", text)
        if re.fullmatch(r"\w+:", line):
            section = True
            yield from ("", f"**{line.removesuffix(':')}**", "")
        elif section and line.startswith("    ") and not line.startswith("     "):
            yield f"- {text}"
        else:
            yield f"  {text}" if section and line.strip() else text


def public(_: str = "") -> Iterator[str]:
    """Public names of matchlib, by subject, for mkdocstrings."""
    import matchlib

    shown: set[str] = set()
    for title, names in SUBJECTS.items():
        yield from (f"## {title}", "")
        for name in names.split():
            shown.add(name)
            options = ["    options:", "      members: false"] if name in BRIEF else []
            yield from (f"::: matchlib.{name}", *options, "")
    registries = {name for name in matchlib.__all__ if name in matchlib.registry.ALL}
    missing = set(matchlib.__all__) - shown - registries - {"adapters"}
    if missing:
        raise RuntimeError(f"public names without a place in the reference: {sorted(missing)}")


BRIEF = {"MatchlibError"}
SUBJECTS = {
    "Runs": "distill train resume evaluate score load Pipeline export Exporter",
    "Data": "Dataset prepare Codec Batch Condition",
    "Teachers and students": "Teacher Student NetworkSpec Preconditioned Sampler",
    "Matching models": "MatchingModel Coupling Interpolant ScheduledInterpolant Objective TimeDistribution Moments",
    "Rows and families": "Row Coefficients Family Defaults",
    "Losses": "RealUID UID SiD FGM IBMD BilinearLoss Quadratic DistillationLoss Predictions Distillation",
    "Training": "Trainer TrainerSettings Task Learner Callback",
    "Errors": "MatchlibError",
}
