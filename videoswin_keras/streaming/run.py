"""A recording from its frames to the finished files, so that nothing is lost when the run is killed."""

import itertools
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videoswin_keras.streaming import report, writers
from videoswin_keras.streaming.annotation import annotate
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.journal import Journal
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.smoothing import smooth
from videoswin_keras.streaming.stream import StreamState, VideoStream
from videoswin_keras.streaming.timeline import Bout, Result, bouts
from videoswin_keras.streaming.writers import About
from videoswin_keras.video.decode import VideoError
from videoswin_keras.video.encode import write_video


class Run:
    """One recording, or one camera, on its way into a folder.

    Args:
        stream: `VideoStream`.
        source: `Recording`, or `Camera`.
        folder: Where the files go; made if it is not there.
        about: What the recording is. Of a camera, `started` is filled in.
        settings: What the results depend on, as plain JSON values; kept in the folder, and shown in the report.
        resume: Whether to go on with what is in the folder.
        save_every: Float. Seconds after which the results and the state of the stream are saved.

    Raises:
        FileExistsError, ValueError, OSError: as `Journal.open`.
    """

    def __init__(
        self,
        stream: VideoStream,
        source: Recording | Camera,
        folder: str | Path,
        about: About,
        settings: dict[str, Any],
        resume: bool = False,
        save_every: float = 60.0,
    ):
        self.stream, self.source, self.about, self.settings = stream, source, about, settings
        self.folder, self.save_every = Path(folder), save_every
        self._journal = Journal.open(self.folder, settings, resume)
        arrays = self._journal.state
        self.state: StreamState = stream.start() if arrays is None else stream.restore(arrays)
        self.left_out = 0  # clips of a camera
        if isinstance(source, Camera):  # small pictures wait, not large ones
            source.prepare, self.state.sampler.prepare = stream.prepare, None

    @property
    def is_finished(self) -> bool:
        """Whether the final files are there."""
        return self._journal.is_finished

    @property
    def position(self) -> float:
        """Seconds of the recording that have results."""
        return self.state.done / self.stream.fps

    def results(self) -> Iterator[Result]:
        """Yields the results from here to the end, smoothed, while they are computed and saved.

        Raises:
            VideoError: if there is no frame at all; the folder is then left as it was.
        """
        size, centred = self.stream.smooth, self.stream.centred
        earlier = deque(self._journal.results(), maxlen=size - 1)
        given = max(0, len(earlier) - ((size - 1) // 2 if centred else 0))  # before the stop
        return itertools.islice(smooth(itertools.chain(earlier, self._computed()), size, centred), given, None)

    def _computed(self) -> Iterator[Result]:
        saved = -math.inf  # the first results at once: what an early stop leaves can be gone on with
        try:
            for batch in self._batches():
                self._journal.append(batch)
                if time.monotonic() - saved >= self.save_every:
                    self._journal.save(self.state.to_arrays())
                    saved = time.monotonic()
                yield from batch
        except (VideoError, OSError):
            if not self.state.done:
                self._journal.discard()
            raise
        if not self.state.done:
            self._journal.discard()
            raise VideoError(f"No frame came from {self.about.source}.")
        self._journal.save(self.state.to_arrays())

    def _batches(self) -> Iterator[list[Result]]:
        if not isinstance(self.source, Camera):
            return self.stream.batches(self.source.frames(self.state.sampler.position), self.state)
        camera = self.source

        def is_late() -> bool:
            """Whether more than half of the camera's queue is waiting; then a clip is left out."""
            is_late = camera.waiting > camera.queue_size // 2
            self.left_out += is_late
            return is_late

        return self.stream.batches(camera.frames(), self.state, is_late)

    def finish(self, with_video: bool = False, progress: bool = False) -> list[Bout]:
        """Writes the final files, and returns the bouts.

        Args:
            with_video: Whether to write the annotated video too; of a `Recording` only.
            progress: Whether to show a progress bar for that video.
        """
        if isinstance(self.source, Camera) and self.state.sampler.origin is not None:
            self.about = replace(self.about, started=datetime.fromtimestamp(self.state.sampler.origin))

        def results() -> Iterator[Result]:
            return smooth(self._journal.results(), self.stream.smooth, self.stream.centred)

        timeline = bouts((result.start, result.end, result.smoothed_label) for result in results())

        def write() -> None:
            folder, about = self.folder, self.about
            writers.write_csv(folder / "results.csv", results(), about)
            writers.write_jsonl(folder / "results.jsonl", results(), about)
            writers.write_bouts(folder / "bouts.csv", timeline, about)
            writers.write_boris(folder / "boris.csv", timeline, about)
            writers.write_edf(folder / "annotations.edf", timeline, about)
            writers.write_webvtt(folder / "labels.vtt", timeline, about)
            density = report.Density(results(), timeline[-1].end, len(about.labels))
            picture = report.render(report.draw(density, timeline, about))
            report.write_png(folder / "report.png", picture)
            notes = {name: str(value) for name, value in self.settings.items() if not isinstance(value, list)}
            report.write_html(folder / "report.html", picture, timeline, about, notes)
            if with_video:
                assert isinstance(self.source, Recording)
                pictures = annotate(self.source.frames(), results(), about, self.stream.longest_hold)
                bar = tqdm(pictures, unit="frame", leave=False, disable=None if progress else True)
                write_video(folder / "annotated.mp4", bar, about.fps)

        self._journal.finish(write)
        return timeline
