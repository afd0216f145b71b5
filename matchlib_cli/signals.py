"""How a command hears that it is to end: Ctrl-C, SIGTERM, SIGHUP, or that nobody reads its output any more."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

__all__ = ["Stop", "interruptible", "listening", "silence"]

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
Handler = Callable[[int, FrameType | None], None]


class Stop:
    """Turns the first signal into a request to stop after the step; a second one interrupts at once.

    So does the first while nobody has asked for the request yet: nothing has begun that could be lost.
    """

    def __init__(self) -> None:
        self.asked = self._looked_at = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._looked_at:
            raise KeyboardInterrupt
        self.asked = True

    def __bool__(self) -> bool:
        self._looked_at = True
        return self.asked


@contextmanager
def listening(handler: Handler) -> Iterator[None]:
    """Hands signals to a function; those that whoever started the process lets it ignore, as ``nohup`` does, stay ignored."""
    if threading.current_thread() is not threading.main_thread():  # only it may listen
        yield
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def interruptible() -> AbstractContextManager[None]:
    """Returns a context in which every signal interrupts as Ctrl-C does, so that half-written files are removed."""
    return listening(_interrupt)


def silence() -> None:
    """Sends what is still printed nowhere: nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
