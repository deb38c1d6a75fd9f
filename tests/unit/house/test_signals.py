"""Signals wait for the end of a step during training, and only then."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from zoo.training.signals import RunInterrupted, Signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_training_a_signal_ends_at_once(number: int, code: int) -> None:
    with Signals().installed(), pytest.raises(RunInterrupted) as caught:
        send(number)
    assert caught.value.exit_code == code


def test_during_training_the_first_waits_and_the_second_does_not() -> None:
    with Signals().installed() as signals:
        signals.raise_if_received()
        signals.deferring = True
        send(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(RunInterrupted):
            signals.raise_if_received()
        with pytest.raises(RunInterrupted):
            send(signal.SIGINT)


def test_former_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals().installed():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with Signals().installed() as signals:
            signals.reinstall()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
