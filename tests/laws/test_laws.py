"""Every law of the shipped suite, on every registered plugin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from matchlib.testing.law import Law, cases, check

CASES = [pytest.param(law, plugin, id=f"{law.name}-{plugin}") for law, plugin in cases()]


@pytest.mark.parametrize(("law", "plugin"), CASES)
def test_law(law: Law, plugin: str) -> None:
    """On half of the cases that ``matchlib check`` draws, the same ones every time."""
    holds(replace(law, examples=(law.examples + 1) // 2), plugin)


@pytest.mark.slow
@pytest.mark.parametrize(("law", "plugin"), CASES)
def test_law_in_full(law: Law, plugin: str) -> None:
    holds(law, plugin)


def holds(law: Law, plugin: str) -> None:
    outcome = check(law, plugin)
    assert outcome.passed, outcome.explanation
    assert outcome.checks > 0
