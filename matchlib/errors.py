"""Errors a user can cause. Each message says what was given, what is accepted and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "ArtifactError",
    "ConversionError",
    "DataError",
    "DivergedError",
    "IncompatibleError",
    "Interrupted",
    "MatchlibError",
    "SettingError",
    "UnknownNameError",
    "nearest",
]


class MatchlibError(Exception):
    """Base of every error that a user's input can cause; the command line prints it in one line and exits with 2."""


class UnknownNameError(MatchlibError, KeyError):
    """A name that no registry entry, field or key bears."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class SettingError(MatchlibError, ValueError):
    """A setting outside its domain."""


class IncompatibleError(MatchlibError):
    """Pieces that are each valid but do not fit together."""


class ConversionError(IncompatibleError):
    """A prediction that does not determine the one asked for.

    Args:
        message: what was refused, and why.
        model: the matching model; None where no further prediction would help.
        predicted: the objectives that its field predicts.
        wanted: the objective that they do not determine.
    """

    def __init__(self, message: str, model: Any = None, predicted: tuple[Any, ...] = (), wanted: Any = None) -> None:
        super().__init__(message)
        self.model, self.predicted, self.wanted = model, predicted, wanted


class DataError(MatchlibError):
    """A data set that cannot be read or used."""


class ArtifactError(MatchlibError):
    """A saved model or run that is missing, damaged or written by something else."""


class DivergedError(Exception):
    """Training stopped itself; the command line exits with 3 and names the last good checkpoint."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the name nearest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class Interrupted(Exception):
    """Work was asked to stop, and stopped where it can go on."""
