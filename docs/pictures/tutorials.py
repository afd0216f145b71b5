"""Runs a tutorial at full size and keeps the picture that its code draws.

    python docs/pictures/tutorials.py NAME [FOLDER]

``docs/tutorials/NAME.md`` runs in FOLDER, or in one that is deleted afterwards; ``tutorial-NAME.png`` goes to ``docs/images``.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).absolute().parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(page: Path, folder: Path) -> None:
    """Executes the Python snippets of a page, one after the other, in a folder."""
    os.chdir(folder)
    module = ModuleType("tutorial")
    sys.modules["tutorial"] = module  # dataclasses look their module up
    for body in FENCE.findall(page.read_text(encoding="utf-8")):
        exec(compile(body, str(page), "exec"), module.__dict__)


def main() -> None:
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if sys.argv[2:] else temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        run(DOCS / "tutorials" / f"{name}.md", folder)
        shutil.copy(folder / f"tutorial-{name}.png", DOCS / "images")


if __name__ == "__main__":
    main()
