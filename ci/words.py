"""Finds words that the project does not use, in code, settings, messages and tests; part of ``make lint``.

Each entry is a pattern and what to write instead. ``python ci/words.py FILE ...`` looks at some files, without arguments at all.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PLACES = ("matchlib", "matchlib_cli", "tests/unit", "tests/cli", "tests/laws")
WORDS = {
    r"\bsurges?\b": "adaptive_clip",
    r"\b(critic_turns|student_turns?|critic turns?|student turns?|(a|one|each|every) turn)\b": "step",
    r"\bheed(ed|s)?\b": "on_alarm",
    r"\b(critic|student)_(rate|factor)\b": "student_lr, critic_lr, *_lr_scale",
    r"\bemas\b": "extra_ema_decays",
    r"\blog_ratio\b": "log_sigma",
    r"\bcard(s|\.json)?\b": "config.json, artifact",
    r"\bbundles?\b": "artifact",
    r"\b(in_units|in_data_units)\b": "normalized_as, denormalize",
    r"\bContrasts?\b": "Predictions",
    r"\bSignature\b(?!\()": "NetworkSpec",
    r"\b(ClosedField|Foreign)\b": "ExactField, CallableField",
    r"\b(Distilling|Watching)\b": "DistillationTask, DistillationMonitor",
    r"\b(noisy times|beside=|recipe_of|unneeded)\b": "high-noise times, like=, Defaults",
    r"\bT\d{1,2} of the theory\b|\bT\d{1,2}[:,] ": "the statement itself",
}
VARIABLES = {r"^\s+(made|told|guess|asked)\b(, \w+)*(: [^=]+)? = ": "a noun"}  # in the package itself
ALLOWED = re.compile(r"inspect\.Signature|[Mm]odel cards?")


def found(path: Path) -> list[str]:
    """Returns ``path:line: word -> instead`` for each word of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    words = WORDS | VARIABLES if path.parts[0] == "matchlib" and path.parts[1] != "testing" else WORDS
    return [
        f"{path}:{number}: {match.group(0)!r} -> {instead}"
        for number, line in enumerate(lines, 1)
        for pattern, instead in words.items()
        for match in re.finditer(pattern, ALLOWED.sub("", line))
    ]


def main(names: list[str]) -> int:
    """Prints what was found and returns the exit code."""
    listed = subprocess.run(["git", "ls-files", *PLACES], capture_output=True, text=True, check=True).stdout.split()
    files = [Path(name) for name in names or listed if name.endswith((".py", ".yaml"))]
    complaints = [line for path in files if path.exists() for line in found(path)]
    print("\n".join(complaints[:100]) or f"{len(files)} files have none of {len(WORDS)} words")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
