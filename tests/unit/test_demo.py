"""The page on which a generator is tried: what it shows, what it refuses, and the page itself in a browser."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.browser import Browser, chromium

import matchlib
from matchlib.errors import SettingError
from matchlib.evaluation.pictures import drawn
from matchlib.exporting.demo import Demo

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.runs
def test_demo_shows_what_both_make_of_the_same_sources(finished: Path) -> None:
    demo = Demo(finished)
    shown = demo.show(9, seed=3)
    assert list(shown) == ["student", "teacher"]
    student, teacher = (matchlib.load(finished, kind) for kind in shown)
    sources = student.sources(9, seed=3)
    for kind, pipeline in (("student", student), ("teacher", teacher)):
        x = pipeline.decode(pipeline.sample_batch(9, seed=3, labels=sources.label, source=sources.source).data)
        assert np.array_equal(shown[kind].picture, drawn({kind: x.numpy()}, pipeline.limits))
    assert shown["student"].text.startswith("student: 1 evaluation, ") and shown["student"].text.endswith(" ms for 9 samples")


@pytest.mark.runs
def test_demo_takes_a_class_and_the_teachers_steps(finished: Path) -> None:
    demo = Demo(finished)
    one, two = (demo.show(4, seed=0, label=0, steps=steps)["teacher"] for steps in (1, 2))
    evaluations = [int(shown.text.split()[1]) for shown in (one, two)]
    assert evaluations[1] == 2 * evaluations[0] and not np.array_equal(one.picture, two.picture)
    source = demo.first.sources(4, seed=0).source
    wanted = demo.first.decode(demo.first.sample_batch(4, labels=torch.zeros(4, dtype=torch.long), source=source).data)
    shown = demo.show(4, seed=0, label=0)["student"]
    assert np.array_equal(shown.picture, drawn({"student": wanted.numpy()}, demo.first.limits))
    for n in (0, 65):
        with pytest.raises(SettingError, match="must lie in 1 to 64"):
            demo.show(n, seed=0)


@pytest.mark.runs
def test_demo_of_an_exported_folder_has_no_teacher(finished: Path, tmp_path: Path) -> None:
    matchlib.export(finished, "hub", tmp_path / "hub")
    demo = Demo(tmp_path / "hub")
    assert list(demo.show(2, seed=0)) == ["student"] and demo.teacher_steps is None


@pytest.mark.runs
def test_demo_says_what_it_needs(finished: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = cli("demo", finished)
    assert code == 2 and "pip install 'matchlib[demo]'" in err and len(err.strip().splitlines()) == 1
    code, _, err = cli("demo", "nowhere")
    assert code == 2 and "there is no run at nowhere" in err


# -- in a browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as opened:
        yield opened


@contextlib.contextmanager
def served(run: Path) -> Iterator[str]:
    """Yields the address of the page of a command, which is ended by Ctrl-C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "matchlib_cli", "demo", str(run), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line, process.communicate()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def waited(browser: Browser, script: str, seconds: float = 60.0) -> str:
    """Returns what a script returns, once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = browser.run(f"return {script}")
        if found:
            return str(found)
        time.sleep(0.2)
    raise AssertionError(f"{script} was never true")


@pytest.mark.slow
def test_demo_in_a_browser(finished: Path, browser: Browser) -> None:
    """Pictures appear, another seed makes others, and nothing but this machine is asked."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    image, text = "document.querySelector('#picture-student img')", "document.querySelector('#text-student').innerText"
    with served(finished) as address:
        browser.post("/url", {"url": address})
        waited(browser, f"{image} && {image}.naturalWidth > 50")
        assert "1 evaluation" in waited(browser, text)
        assert browser.run("return document.querySelectorAll('#picture-teacher img').length") == 1
        before = str(browser.run(f"return {image}.src"))
        browser.run(
            "const seed = document.querySelector('input[type=number]'); seed.value = 5;"
            "seed.dispatchEvent(new Event('input', {bubbles: true})); seed.dispatchEvent(new Event('blur'))"
        )
        browser.run("[...document.querySelectorAll('button')].find(x => x.innerText == 'Generate').click()")
        waited(browser, f"{image} && {image}.src != '{before}' && {image}.naturalWidth > 50")
        elsewhere = [url for url in browser.requests() if not url.startswith((address, "data:", "blob:", "about:", "chrome"))]
        assert not elsewhere, elsewhere[:5]
