"""The base class of settings: frozen records whose fields declare type, range and default once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from matchlib.errors import MatchlibError, SettingError, UnknownNameError, nearest

__all__ = ["Settings", "explain"]

_inside: ContextVar[bool] = ContextVar("inside a validation", default=False)


class Settings(BaseModel):
    """A group of settings, validated when it is made and never changed.

    Raises:
        SettingError: a value of the wrong type or outside its range; the message has its path, what was given and what is accepted.
        UnknownNameError: a key that is no setting, with the nearest one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )

    def __init__(self, **values: Any) -> None:
        if _inside.get():  # a group inside another one: the outermost explains
            super().__init__(**values)
            return
        with _validation():
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise explain(error, type(self)) from None


@contextmanager
def _validation() -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def explain(error: ValidationError, kind: type[BaseModel]) -> MatchlibError:
    """Returns the first complaint of a validation in one line, as the error to raise."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-"))]
    if first["type"] == "extra_forbidden":
        known = _fields(kind, path[:-1])
        accepted = f" (accepted are: {', '.join(known)})" if known else ""
        return UnknownNameError(f"unknown setting {'.'.join(path)}{accepted}{nearest(path[-1], known)}")
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, MatchlibError):  # of a plugin's own settings: "name: ...", or a sentence
        between = "." if str(inner).partition(":")[0].isidentifier() else ": "
        return type(inner)(f"{'.'.join(path)}{between}{inner}" if path else str(inner))
    name, given = ".".join(path) or kind.__name__, first["input"]
    message = str(inner) if inner is not None else _message(first, _example(kind, path))
    choices = [part.strip("' ") for part in first.get("ctx", {}).get("expected", "").replace(" or ", ", ").split(",")]
    return SettingError(f"{name}{message}, got {given!r}{nearest(given, choices) if isinstance(given, str) else ''}")


PHRASES = {
    "greater_than_equal": " must be at least {ge}",
    "greater_than": " must be greater than {gt}",
    "less_than_equal": " must be at most {le}",
    "less_than": " must be less than {lt}",
    "literal_error": " must be one of {expected}",
    "model_type": " must be a group of settings",
    "model_attributes_type": " must be a group of settings",
    "missing": " is missing",
    "tuple_type": " must be a list, such as {example}",
}


def _example(kind: Any, path: list[str]) -> str:
    """Returns how the value at a path is written, where its field says so."""
    for part in path[:-1]:
        kind = _group(kind, part)
    field = getattr(kind, "model_fields", {}).get(path[-1] if path else "")
    return str((field.examples or ["[a, b]"])[0]) if field is not None else "[a, b]"


def _message(error: Mapping[str, Any], example: str) -> str:
    """Returns what a value must be: in our words where they are shorter than pydantic's."""
    phrase = PHRASES.get(error["type"])
    context = {key: f"{x:g}" if isinstance(x, float) else x for key, x in error.get("ctx", {}).items()}
    return phrase.format(**context, example=example) if phrase else f": {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields(kind: Any, path: list[str]) -> list[str]:
    """Returns the names of the settings in the group at a path."""
    for part in path:
        kind = _group(kind, part)
    return list(getattr(kind, "model_fields", {}))


def _group(kind: Any, name: str) -> Any:
    """Returns the class of the group that a field of another group is; None if it is none."""
    field = getattr(kind, "model_fields", {}).get(name)
    if field is None:
        return None
    return next((arg for arg in (field.annotation, *get_args(field.annotation)) if hasattr(arg, "model_fields")), None)
