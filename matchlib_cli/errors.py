"""How a command ends: one line on stderr and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from matchlib.errors import ConversionError, DivergedError, MatchlibError

__all__ = ["INTERRUPTED", "exit_code", "fail"]

DONE, WRONG, DIVERGED, INTERRUPTED = 0, 2, 3, 130


def fail(message: str) -> None:
    """Prints one line on stderr, with the process that says so where there are several."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    who = f" (process {os.environ['RANK']} of {os.environ['WORLD_SIZE']})" if several else ""
    print(f"matchlib: error{who}: {' '.join(message.split())}", file=sys.stderr)


def _message(error: Exception) -> str:
    if isinstance(error, ConversionError):
        from matchlib.runs.explain import explained

        error = explained(error)
    return str(error)


def exit_code(command: Callable[[], Any], *, given: str) -> int:
    """Runs a command and returns the exit code that its end deserves; ``given`` is the command line, for errors in its usage."""
    try:
        result = command()
        sys.stdout.flush()
    except (MatchlibError, DivergedError) as error:
        fail(_message(error))
        return WRONG if isinstance(error, MatchlibError) else DIVERGED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away: nothing to report, and nowhere to report it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        return _usage(error, given)
    return result if isinstance(result, int) else DONE


def _usage(error: Exception, given: str) -> int:
    """Usage errors of the option parser carry their own message; anything else is our own bug and keeps its traceback."""
    if not hasattr(error, "format_message"):
        raise error
    fail(f"{error.format_message()} In: {given} (see matchlib --help)")
    return WRONG
