"""Live video: a camera that is never waited for, and comes back after an outage."""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from urllib.request import Request

import numpy as np

from videoswin_keras import optional, web
from videoswin_keras.addresses import is_web_address, public_address, without_user

_log = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before another attempt to connect; doubled after each that fails
# Seconds by which a clock may be set back, or ahead, and is followed: more would be time that comes twice, or a clock
# that had not been set before.
_STEP_BACK, _STEP_AHEAD = 1.0, 86_400.0
_TIMEOUT_MS = 10_000  # to connect, and for the next frame
SCHEMES = {"rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt"}


def is_live(source: str) -> bool:
    """Whether `source` is a camera, "camera:0", or the address of a stream, and not a file."""
    return bool(re.fullmatch(r"camera:\d+", source)) or source.partition("://")[0].lower() in SCHEMES


class Camera:
    """Frames of a camera or a stream, with the time at which they came.

    A thread reads them into a short queue, so that the camera is read however long the model takes. When the queue is
    full the oldest frame is dropped, and counted. Damaged frames are left out. After an outage it connects again: after
    one second, then two, four, and so on up to thirty.

    Args:
        source: "camera:0", "camera:1", …, a device of this machine; or an address (rtsp://, http://, udp://, …).
        fps: Float. Frames per second that are looked at. About twice as many are kept of what the camera gives.
        queue_size: Integer. Frames that may wait.
        read: Function that yields, for each frame of `source`, a function that returns it (uint8, RGB), or None if it
            is damaged; it raises OSError if it cannot connect, and ends when the stream does. Default: OpenCV's.
        clock: Function that returns the time in seconds. Default: that of day.
        steady: Function that returns the seconds since some moment, whatever happens to `clock`. Where the clock is set
            back by more than a second, or more than a day ahead, times go on by this one. Default: the time since this
            machine was started.
        wait: Function of seconds that waits, or returns true at once when the camera has been closed.
        prepare: Function of a frame; what it returns waits in the place of the frame. A resize, for example.

    Attributes:
        dropped: How many frames were dropped because the queue was full.
        left_out: How many clips were left out because the model was late.
        outages: How many times the stream ended or could not be reached.
        set_by: Float. Seconds by which the clock was set, ahead or back, and is not followed.

    Raises:
        ValueError: if `source` is neither.
    """

    def __init__(
        self,
        source: str,
        fps: float = 4.0,
        queue_size: int = 64,
        read: Callable[[str], Iterator[Callable[[], np.ndarray | None]]] | None = None,
        clock: Callable[[], float] | None = None,
        steady: Callable[[], float] | None = None,
        wait: Callable[[float], bool] | None = None,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        if not is_live(source):
            raise ValueError(
                f"A camera is camera:0, camera:1, … or an address such as rtsp://…. Received: {public_address(source)}."
            )
        self.source = source
        self.dropped = self.outages = self.left_out = 0
        self._clock, self._steady = clock or time.time, steady or _since_start
        self.set_by = 0.0
        self._set_before = 0.0  # the same, of runs before this one
        self._last: tuple[float, float] | None = None
        self.prepare = prepare
        self._read = read or _read
        self._least_step = 0.5 / fps
        self._queue: deque[tuple[float, np.ndarray]] = deque()
        self.queue_size = queue_size
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._wait = wait or self._closed.wait

    def clock(self) -> float:
        """Returns the time in seconds: of day, but for what `set_by` says."""
        with self._changed:  # both threads ask
            now, steady = self._clock() - self.set_by, self._steady()
            if self._last is not None:
                leap = now - self._last[0] - (steady - self._last[1])
                if not -_STEP_BACK <= leap <= _STEP_AHEAD:
                    _log.warning("the clock was set by %+.1f s; times go on as before", leap)
                    self.set_by += leap
                    now -= leap
            self._last = now, steady
        return now

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yields time in seconds and frame, uint8 RGB (height, width, 3), until the camera is closed."""
        thread = threading.Thread(target=self._run_and_close, name=f"camera {public_address(self.source)}", daemon=True)
        thread.start()
        try:
            while True:
                with self._changed:
                    # With a timeout: without one Windows does not let Ctrl-C through.
                    while not self._changed.wait_for(lambda: self._queue or self._closed.is_set(), timeout=1.0):
                        pass
                    if not self._queue:
                        break
                    item = self._queue.popleft()
                yield item
        finally:
            self.close()
            thread.join()
        if self._error is not None:
            raise self._error

    @property
    def waiting(self) -> int:
        """How many frames are in the queue."""
        return len(self._queue)

    @property
    def troubles(self) -> tuple[float, ...]:
        """What has gone wrong, in numbers: frames dropped, clips left out, outages, and seconds as `set_by`."""
        return self.dropped, self.left_out, self.outages, self._set_before + self.set_by

    def recall(self, troubles: Sequence[float]) -> None:
        """Goes on counting where another left off."""
        self.dropped, self.left_out, self.outages = map(int, troubles[:3])
        self._set_before = troubles[3]

    def lost_in_words(self) -> str:
        """Returns what has been lost; "" for nothing."""
        counts = {"frames dropped": self.dropped, "clips left out": self.left_out, "outages": self.outages}
        return ", ".join(f"{what}: {count}" for what, count in counts.items() if count)

    def problems(self) -> list[str]:
        """Returns what has gone wrong since it was started, in words."""
        what = [f"{lost}, since it was started"] if (lost := self.lost_in_words()) else []
        if set_by := self._set_before + self.set_by:
            what.append(f"the clock was set by {set_by:+.1f} s while it ran: times go on as if it had not been")
        return what

    def close(self) -> None:
        """Stops reading; `frames` ends after what is in the queue. May be called from any thread."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _run_and_close(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._error = error  # for `frames` to raise
        finally:
            self.close()

    def _run(self) -> None:
        wait = _FIRST_WAIT
        kept = -np.inf
        while not self._closed.is_set():
            reason = "the stream ended"
            try:
                for picture in self._read(self.source):
                    now = self.clock()
                    if abs(now - kept) >= self._least_step and (frame := picture()) is not None:
                        kept = now
                        self._put(now, frame if self.prepare is None else self.prepare(frame))
                        wait = _FIRST_WAIT
                    if self._closed.is_set():
                        return
            except OSError as error:
                reason = str(error)
            self.outages += 1
            _log.warning("%s: %s; next attempt in %.0f s", public_address(self.source), reason, wait)
            if self._wait(wait):
                return
            wait = min(2 * wait, _LONGEST_WAIT)

    def _put(self, now: float, picture: np.ndarray) -> None:
        with self._changed:
            if len(self._queue) == self.queue_size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append((now, picture))
            self._changed.notify_all()


def _since_start() -> float:
    """Also while the machine sleeps, where the system can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _read(source: str) -> Iterator[Callable[[], np.ndarray | None]]:
    import cv2

    if device := re.fullmatch(r"camera:(\d+)", source):
        capture = cv2.VideoCapture(int(device[1]))
    else:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, timeouts)

    def picture() -> np.ndarray | None:
        is_sound, frame = capture.retrieve()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if is_sound else None

    try:
        if not capture.isOpened():
            raise OSError("no connection" if device else _why_not(source))
        if (count := capture.get(cv2.CAP_PROP_FRAME_COUNT)) > 0 and _has_a_length(source):
            raise ValueError(f"It is a file of {count:.0f} frames, and no camera: download it, and stream the file.")
        while capture.grab():
            yield picture
    finally:
        capture.release()


def _has_a_length(source: str) -> bool:
    """Whether there is a file at an address, by what the server says of it; a camera has no end.

    A password is not sent: FFmpeg may have kept it from the wire.
    """
    if not is_web_address(source):
        return False
    try:
        with web.open_url(Request(without_user(source), method="HEAD"), timeout=_TIMEOUT_MS / 1000) as response:
            return response.headers.get("Content-Length") is not None
    except (OSError, ValueError, HTTPException):
        return False


def _why_not(source: str) -> str:
    """Returns why there is no connection, which OpenCV does not tell."""
    with optional.needed("Asking why a camera does not answer", "av"):
        import av

    try:
        with av.open(source, timeout=_TIMEOUT_MS / 1000):
            return "no connection"
    except av.error.FFmpegError as error:
        return f"no connection ({error.strerror})"
