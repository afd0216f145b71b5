"""How a command ends: one line on stderr and an exit code, never a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import typer

from matchlib.errors import ConversionError, DivergedError, Interrupted, MatchlibError
from matchlib_cli.signals import interruptible, silence

__all__ = ["INTERRUPTED", "exit_code", "fail"]

DONE, WRONG, DIVERGED, OURS, INTERRUPTED = 0, 2, 3, 70, 130
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # how torch says it
LONGEST = 1000  # characters of a message


def fail(message: str) -> None:
    """Prints one line on stderr, with the process that says so where there are several."""
    process, processes = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "1")
    who = f" (process {process} of {processes})" if process and processes != "1" else ""
    text = " ".join(message.split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"  # what was given may be a whole file
    print(f"matchlib: error{who}: {text}", file=sys.stderr)


def _message(error: Exception) -> str:
    if isinstance(error, ConversionError):
        from matchlib.runs.explain import explained

        error = explained(error)
    return str(error)


def exit_code(command: Callable[[], Any], *, given: str) -> int:
    """Runs a command and returns the exit code that its end deserves; ``given`` is the command line, for errors in its usage."""
    try:
        with interruptible():
            result = command()
        sys.stdout.flush()
    except (MatchlibError, DivergedError) as error:
        fail(_message(error))
        return WRONG if isinstance(error, MatchlibError) else DIVERGED
    except (Interrupted, KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error, Interrupted):
            fail(str(error))
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away: nothing to report, and nowhere to report it
        silence()
        return DONE
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        return _refused(error, given)
    return result if isinstance(result, int) else DONE


def _refused(error: Exception, given: str) -> int:
    """What the system refuses is no error of ours: names that are too long, say, no permission, or more memory than there is."""
    if isinstance(error, MemoryError) or any(part in str(error) for part in NO_MEMORY):
        why = next(iter(str(error).splitlines()), "") or "MemoryError"
        fail(f"there is not enough memory: {why} (matchlib plan says how much a distillation needs)")
    elif isinstance(error, RuntimeError) and "home directory" in str(error):  # Path.expanduser's word for ~NAME
        fail("a path begins with ~ and the name of nobody on this machine; write it out")
    elif isinstance(error, OSError) and error.filename is not None:
        fail(f"{os.fsdecode(error.filename)[:200]!r} cannot be used: {error.strerror}")
    else:
        return _usage(error, given)
    return WRONG


def _usage(error: Exception, given: str) -> int:
    """Usage errors of the option parser carry their own message; anything else is an error of ours and is reported in a file."""
    if hasattr(error, "format_message"):
        fail(f"{error.format_message()} In: {given} (see matchlib --help)")
        return WRONG
    with tempfile.NamedTemporaryFile("w", prefix="matchlib-", suffix=".log", delete=False, encoding="utf-8") as report:
        report.write(f"{given}\n\n{''.join(traceback.format_exception(error))}")
    fail(f"{type(error).__name__}: {error}. This is an error of matchlib; the full report is in {report.name}")
    return OURS
