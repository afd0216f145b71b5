"""Makes the pictures of the tutorials anew, by running their snippets as they stand.

python -m benchmarks.quality.tutorials [--only plane ...]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("plane", "digits", "restoration", "diffusers", "plugins")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(PAGES), choices=PAGES)
    for name in parser.parse_args().only:
        text = (DOCS / "tutorials" / f"{name}.md").read_text()
        code = "\n".join(part.split("```")[0] for part in text.split("```python\n")[1:])
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "page.py").write_text(code)
            subprocess.run([sys.executable, "page.py"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for picture in Path(folder).glob("tutorial-*.png"):
                shutil.copy(picture, DOCS / "images" / picture.name)
                print(f"wrote {DOCS / 'images' / picture.name}", flush=True)


if __name__ == "__main__":
    main()
