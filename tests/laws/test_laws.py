"""Every law of the shipped suite, on every registered plugin."""

from __future__ import annotations

import pytest

from matchlib.testing.law import Law, cases, check


@pytest.mark.parametrize(("law", "plugin"), [pytest.param(law, plugin, id=f"{law.name}-{plugin}") for law, plugin in cases()])
def test_law(law: Law, plugin: str) -> None:
    outcome = check(law, plugin)
    assert outcome.passed, outcome.explanation
    assert outcome.checks > 0
