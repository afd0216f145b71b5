"""The documentation site: what is generated for it, and its pages in a browser."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from fixtures.browser import Browser, chromium

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """``ci/pages.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "ci" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- generated text --------------------------------------------------------------------------------------------------------


def test_generated_settings_have_every_setting(hooks: ModuleType) -> None:
    from matchlib.runs.settings import RunSettings, plain

    text = hooks.generated("settings")

    def leaves(tree: dict, path: str = "") -> Iterator[str]:
        for key, value in tree.items():
            full = f"{path}{key}"
            yield from leaves(value, f"{full}.") if isinstance(value, dict) and "name" not in value else [full]

    for name in leaves(plain(RunSettings())):
        assert f"`{name}`" in text or name in ("data", "teacher", "student"), name
    assert "| `trainer.steps` | whole number ≥ 1 | `3200` |" in text


def test_generated_commands_have_every_command(hooks: ModuleType) -> None:
    from matchlib_cli.commands import COMMANDS

    text = hooks.generated("commands")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == [command.__name__ for command in COMMANDS]
    assert "| `--set TEXT` (repeatable) |" in text
    assert "matchlib sample RUN [OPTIONS]" in text


def test_generated_plugins_have_every_plugin(hooks: ModuleType) -> None:
    from matchlib.registry import ALL

    text = hooks.generated("plugins")
    for group, registry in ALL.items():
        for name in registry._builtin:
            assert f"{{ #{group}-{name} }}" in text


def test_generated_plugins_have_readable_heads_and_formulas(hooks: ModuleType) -> None:
    text = hooks.generated("plugins")
    assert "| family | in a line" in text and "| loss | in a line" in text
    row = next(line for line in text.splitlines() if line.startswith("| [`sid`]"))
    assert "-a &#124;d&#124;^2 + &lt;d, data - teacher&gt;" in row and "\\|" not in row


def test_generated_public_names_are_all_of_them(hooks: ModuleType) -> None:
    assert "::: matchlib.distill\n" in hooks.generated("public")  # a name without a place is an error there


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_notebook_has_the_snippets_of_its_tutorial(hooks: ModuleType, page: Path) -> None:
    pytest.importorskip("nbformat")
    book = json.loads(hooks.notebook(page.read_text()))
    code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code == [body.rstrip() for body in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)]
    assert not any(".md" in "".join(cell["source"]) for cell in book["cells"])


# -- in a browser ----------------------------------------------------------------------------------------------------------


class Silent(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site, served from this machine."""
    pytest.importorskip("mkdocs")
    folder = ROOT / "build" / "site"
    sources = [ROOT / "mkdocs.yml", ROOT / "ci" / "pages.py", *(ROOT / "docs").rglob("*"), *(ROOT / "matchlib").rglob("*.py")]
    if not (folder / "index.html").exists() or (folder / "index.html").stat().st_mtime < max(file.stat().st_mtime for file in sources):
        folder = tmp_path_factory.mktemp("site")  # ``make docs`` made none, or an older one
        subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder], cwd=ROOT, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


PLACES = [
    "",
    "tutorials/plane/",
    "reference/python/",
    "reference/settings/",
    "reference/plugins/",
    "concepts/distillation/",
    "concepts/glossary/",
]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_pages_have_no_error_and_ask_nobody_else(site: str, browser: Browser, place: str) -> None:
    browser.post("/url", {"url": f"{site}/{place}"})
    assert browser.run("return document.querySelector('h1').textContent.length") > 0
    broken = "return [...document.images].filter(x => x.complete && !x.naturalWidth).map(x => x.src)"
    assert browser.run(broken) == []
    assert [entry["message"] for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = browser.requests()
    assert asked
    assert [url for url in asked if not url.startswith((site, "data:", "blob:", "chrome", "about:"))] == []


@pytest.mark.slow
def test_search_finds_a_page(site: str, browser: Browser) -> None:
    browser.post("/url", {"url": f"{site}/"})
    field = "const field = document.querySelector('.md-search__input');"
    browser.run(f"document.querySelector('#__search').click(); {field} field.focus(); field.value = 'critic';")
    for _ in range(100):
        browser.run(f"{field} field.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}));")
        found = browser.run("return [...document.querySelectorAll('.md-search-result__link')].map(x => x.href)")
        if found:
            break
        time.sleep(0.1)
    assert any("glossary" in link or "distillation" in link for link in found)
