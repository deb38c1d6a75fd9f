"""Ctrl-C and SIGTERM: during training the step is finished and saved; elsewhere the run ends at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["RunInterrupted", "Signals"]

log = logging.getLogger(__name__)


class RunInterrupted(Exception):  # noqa: N818 - what was asked for is no error
    """The run was asked to end by a signal. ``exit_code`` is what a shell expects of the process: 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number
        self.exit_code = 128 + number


class Signals:
    """Holds the first SIGINT or SIGTERM back while ``deferring``: the training loop acts on it between two steps.

    A second signal is not held back: it raises at once, at the price of the steps since the last checkpoint.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self.received: int | None = None
        self.deferring = False

    @contextmanager
    def installed(self) -> Iterator[Signals]:
        """Handle the signals inside the block; outside the main thread, where Python forbids it, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def reinstall(self) -> None:
        """Take SIGTERM back from Lightning, which puts its own handler in place when a fit begins."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handle)

    def raise_if_received(self) -> None:
        """Raise ``RunInterrupted`` if a signal was held back."""
        if self.received is not None:
            raise RunInterrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker got what was meant for its parent, which still needs it to finish the step
        if self.deferring and self.received is None:
            self.received = number
            log.info("%s: finishing this step, then saving; once more ends at once", signal.Signals(number).name)
            return
        raise RunInterrupted(number)
