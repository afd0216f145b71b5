"""The mutants address the code as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).resolve().parents[1] / "mutants"


def test_mutants_replace_text_that_occurs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text that a mutant replaces occurs exactly once in the file that the mutant names."""
    monkeypatch.syspath_prepend(str(MUTANTS))
    monkeypatch.delitem(sys.modules, "mutants", raising=False)
    import mutants

    assert not mutants.misplaced()
