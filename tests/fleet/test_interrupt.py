"""Signals are sent to this process: their handler runs before `raise_signal` returns."""

import signal
import sys
import time

import pytest

from fleet.interrupt import interruptible, stop_at_sigterm


class Loses:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_an_exception_and_is_remembered():
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with interruptible() as interrupted:
        assert not interrupted.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_ctrl_c_that_a_destructor_loses_is_raised_again(capsys):
    def lose_one():
        Loses()
        time.sleep(5)

    with interruptible() as interrupted:
        with pytest.raises(KeyboardInterrupt):
            lose_one()
        assert interrupted.is_set()
    assert "ignored" not in capsys.readouterr().err


def test_other_errors_of_a_destructor_are_printed_as_usual(monkeypatch):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    class Breaks:
        def __del__(self):
            raise OSError("disk")

    with interruptible():
        Breaks()
    assert [str(exception.exc_value) for exception in lost] == ["disk"]


def test_a_process_that_ignores_ctrl_c_still_ignores_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_is_like_ctrl_c_once_asked_for_and_until_the_end():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as interrupted:
        assert signal.getsignal(signal.SIGTERM) == before
        stop_at_sigterm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert interrupted.is_set()
    assert signal.getsignal(signal.SIGTERM) == before
