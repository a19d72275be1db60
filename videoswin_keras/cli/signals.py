"""Ctrl-C, SIGTERM and SIGHUP, for all verbs in one way."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# Ctrl-C; what `kill`, `timeout` and systems that shut down send; and what a terminal sends that is closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_AGAIN = 0.01  # seconds


class Stopped(KeyboardInterrupt):
    """This process was asked to stop.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Returns what a shell says of a process that a signal has ended: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + getattr(stop, "number", signal.SIGINT)


class _Listener:
    """What is done at a signal.

    Attributes:
        stop: The exception that was raised at the first one; None before.
        action: Function that is called with the number of the signal in place of raising.
        has_acted: Whether it was called.
    """

    def __init__(self) -> None:
        self.stop: Stopped | None = None
        self.action: Callable[[int], None] | None = None
        self.has_acted = False
        self._earlier: dict[int, Any] = {}
        self._is_dropped = self._is_in_hook = self._is_sent = False
        self._sender: threading.Thread | None = None

    def begin(self) -> None:
        """Listens to the signals that would end this process: not to those that its parent has it ignore (`nohup`)."""
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._earlier[number] = signal.signal(number, self._hear)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._raise_again

    def end(self) -> None:
        sys.unraisablehook = self._hook
        self._is_dropped = False
        self._await_sender()
        for number, earlier in self._earlier.items():
            signal.signal(number, earlier)

    def _hear(self, number: int, frame: Any) -> None:
        if self._is_sent and self.stop is not None:
            self._is_dropped = self._is_in_hook
            self._is_sent = False  # after the other: `_send_again` reads them the other way round
            if self._is_in_hook:
                return
            raise self.stop
        if self.stop is not None or self.has_acted:
            if number == signal.SIGINT:  # a person; what shells and `timeout` send comes twice
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
        elif self.action is not None:
            self.has_acted = True
            self.action(number)
        else:
            self.stop = Stopped(number)
            raise self.stop

    def _raise_again(self, unraisable: Any) -> None:
        """Python drops what is raised in a finalizer or a callback of the garbage collector, of which JAX has one."""
        if self.stop is None or unraisable.exc_value is not self.stop:
            self._hook(unraisable)
            return
        self._await_sender()
        self._is_dropped = self._is_in_hook = True
        self._sender = threading.Thread(target=self._send_again, args=(self.stop.number,), daemon=True)
        self._sender.start()
        self._is_in_hook = False

    def _await_sender(self) -> None:
        if self._sender is not None:
            self._sender.join()

    def _send_again(self, number: int) -> None:
        """Sends a signal to the main thread, whatever it waits for, until it is out of the finalizer."""
        while True:
            time.sleep(_AGAIN)
            if self._is_sent:
                continue
            if not self._is_dropped:
                return
            self._is_sent = True
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                _thread.interrupt_main(signal.Signals(number))


_listener: _Listener | None = None


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within, a signal raises `Stopped` in the main thread. A second Ctrl-C ends the process at once.

    Raises:
        Stopped: also at the end, if something has caught it, or made another error of it.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener = listener = _Listener()
    listener.begin()
    try:
        try:
            yield
        except Exception as error:
            if listener.stop is not None:
                raise listener.stop from error
            raise
        if listener.stop is not None:
            raise listener.stop
    finally:
        listener.end()
        _listener = None


@contextlib.contextmanager
def handled(action: Callable[[int], None]) -> Iterator[None]:
    """Within, the first signal calls `action` with its number and does nothing else: the block comes to its own end."""
    listener = _listener
    if listener is None or listener.action is not None:
        yield
        return
    listener.action = action
    try:
        yield
    finally:
        listener.action, listener.has_acted = None, False
