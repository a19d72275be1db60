"""The streams that the command prints on: no name steers the terminal, and no work stops because nobody reads."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from videoswin_keras.addresses import without_secrets
from videoswin_keras.text import printable_lines

# What a stream answers that takes nothing any more: a pipe that was closed, a terminal that hung up, a full disk.
_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ENOSPC, errno.EFBIG}
_GONE.add(getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas


class _Lasting:
    """A text stream that can always be written to.

    Characters that its encoding lacks are written as their escapes. Once nobody reads it, it leads nowhere.

    Attributes:
        is_gone: Whether that is so.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.is_gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with self._kept_open():
            self._stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._kept_open():
            self._stream.flush()

    @contextlib.contextmanager
    def _kept_open(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.is_gone = True
            _lead_nowhere(self._stream.fileno())  # what is in its buffer too


class Escaped:
    """A text stream on which everything but lines and tabs is written as `printable`, and addresses without secrets.

    Attributes:
        for_bars: The stream behind it, for progress bars, which move the cursor.
    """

    def __init__(self, stream: TextIO):
        self.for_bars = _Lasting(stream)
        self._wrapped = self.for_bars  # by this name tqdm knows that lines written here pass through its bars

    def __getattr__(self, name: str) -> Any:
        return getattr(self.for_bars, name)

    def write(self, text: str) -> int:
        self.for_bars.write(printable_lines(without_secrets(text)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def escaped() -> Iterator[None]:
    """Within, `sys.stdout` and `sys.stderr` are `Escaped`; where there is none, they lead nowhere."""
    with contextlib.ExitStack() as stack:

        def over(stream: Any) -> Any:
            if isinstance(stream, Escaped):
                return stream
            return Escaped(stream or stack.enter_context(_nowhere()))

        stack.enter_context(contextlib.redirect_stdout(over(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(over(sys.stderr)))
        yield


def take_over() -> None:
    """Makes the streams of this process `escaped` to its end, and descriptors 0 to 2 no others.

    A process that was started without one of them (`2>&-`) would give its number to the next file it opens, into which
    libraries would write their messages.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            _lead_nowhere(descriptor)
    os.environ["PYTHON_COLORS"] = "0"  # by which Python 3.13 writes tracebacks with escapes
    for name in ("stdout", "stderr"):
        setattr(sys, name, Escaped(getattr(sys, name) or _nowhere()))


def has_reader() -> bool:
    """Whether anybody may still read what is printed."""
    return not getattr(sys.stdout, "is_gone", False)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
