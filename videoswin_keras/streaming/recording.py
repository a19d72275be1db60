"""Video files that follow each other, as one recording with one time line."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from videoswin_keras.video.decode import VideoError, iter_lazy_frames, probe, read_header

_log = logging.getLogger(__name__)


class Recording:
    """One or more video files; each begins when the one before it has ended.

    Args:
        paths: The files, at least one, in their order.

    Attributes:
        damaged: What is wrong with each file that could not be read, or not to its end, as text by path; known once it
            has been reached.

    Example, with a picture, which is a video of one frame:

    >>> import cv2, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "picture.png"
    >>> cv2.imwrite(str(path), np.zeros((4, 6, 3), "uint8"))
    True
    >>> [(time, picture().shape) for time, picture in Recording([path]).frames()]
    [(0.0, (4, 6, 3))]
    """

    def __init__(self, paths: Sequence[str | Path]):
        if isinstance(paths, str | Path) or not paths:
            raise ValueError(f"A recording is a list of at least one file. Received: {paths!r}.")
        self.paths = [Path(path) for path in paths]
        self.damaged: dict[Path, str] = {}

    def frames(self, after: float | None = None) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        """Yields time in seconds and pixels, as `iter_lazy_frames` does; with `after` only frames later than that.

        Of several files those that cannot be read are left out, without a gap: how long they are is not known.

        Raises:
            FileNotFoundError, VideoError: if there is only one file and it cannot be read, or none of them can.
        """
        if len(self.paths) == 1:
            yield from self._whole(self.paths[0], after)
            return
        offset = 0.0
        for path in self.paths:
            try:
                first, duration = _span(path)
                offset, begin = offset + duration, offset
                if after is not None and offset <= after:
                    continue
                # A millisecond earlier than `after`: what is a hair too early by the file's own times is dropped here.
                wanted = None if after is None or begin > after else after - begin + first - 0.001
                for time, picture in self._whole(path, wanted):
                    if after is None or begin + (time - first) > after:
                        yield begin + (time - first), picture
            except (OSError, VideoError) as error:
                self._report(path, f"left out: {error}")
        if len(self.damaged) == len(self.paths) and not offset:
            raise VideoError(f"None of the {len(self.paths)} files can be read. {self.damaged[self.paths[0]]}")

    def _whole(self, path: Path, after: float | None) -> Iterator[tuple[float, Callable[[], np.ndarray]]]:
        """Yields the frames of a file, and reports it if they end before the file says that they do."""
        end, last = read_header(path).end, None
        for time, duration, picture in iter_lazy_frames(path, after):
            last = time + duration
            yield time, picture
        if end is not None and last is not None and last < end - max(2.0, 0.02 * end):
            self._report(path, f"cut off or damaged: its frames end at {last:.1f} s, and it says {end:.1f} s.")

    def _report(self, path: Path, what: str) -> None:
        self.damaged[path] = what
        _log.warning("%s is %s", path, what)

    def duration(self) -> float | None:
        """Returns about how many seconds there are, for a progress bar; None where the files do not say."""
        total = 0.0
        for path in self.paths:
            try:
                total += read_header(path).duration or 0.0
            except (OSError, VideoError):
                continue
        return total or None


def _span(path: Path) -> tuple[float, float]:
    """Returns when the first frame of a file is shown, by the file's own time, and how long the file lasts: seconds."""
    index = probe(path)
    return float(index.times[0]), index.duration
