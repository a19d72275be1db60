"""A recording from its frames to the finished files, so that nothing is lost when the run is killed."""

import contextlib
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, tzinfo
from pathlib import Path
from typing import IO, Any

import numpy as np

from videoswin_keras.atomic import full_disk_explained, open_own
from videoswin_keras.progress import Bar
from videoswin_keras.streaming import report, writers
from videoswin_keras.streaming.about import DAMAGED, About, Problem
from videoswin_keras.streaming.annotation import annotate
from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.clocks import LocalZone, next_roll
from videoswin_keras.streaming.fingerprints import fingerprints, grown_files
from videoswin_keras.streaming.frames import Sampler
from videoswin_keras.streaming.journal import Journal, read_settings
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.smoothing import Smoother, smooth
from videoswin_keras.streaming.stream import Feed, StreamState, VideoStream
from videoswin_keras.streaming.timeline import Result, Timeline, timeline_of
from videoswin_keras.video.decode import VideoError
from videoswin_keras.video.encode import write_video

SO_FAR = "results_so_far.csv"  # grows while a recording is read


class Run:
    """One recording, or one camera, on its way into a folder.

    Args:
        stream: `VideoStream`.
        source: `Recording`, or `Camera`.
        folder: Where the files go; made if it is not there.
        about: What the recording is. Its clips, its start, its files and what is wrong with them are filled in.
        settings: What the results depend on, as plain JSON values; kept in the folder, and shown in the report.
        resume: Whether to go on with what is in the folder: where it was stopped; or where the files ended, if they
            have grown since; or where a camera was stopped.
        save_every: Float. Seconds after which the results and the state of the stream are saved.
        longest_hold: Float. Seconds for which a frame stands for those that follow it. Default: the stream's.
        zone: Whose clocks a camera's results show. Default: this machine's.
        state: Of a camera's stream that goes on in this folder; the results begin where it is.

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
        longest_hold: float | None = None,
        zone: tzinfo | None = None,
        state: StreamState | None = None,
    ):
        self.stream, self.source = stream, source
        self.about = replace(about, fps=stream.fps, clip_frames=stream.clip_frames, multi_label=stream.multi_label)
        self.folder, self.save_every = Path(folder), save_every
        self.longest_hold = longest_hold or stream.longest_hold
        self.zone = zone or LocalZone()
        self._own_settings = settings
        kept = read_settings(self.folder) if resume else None
        files, grown = [], []
        if isinstance(source, Recording):
            files = fingerprints(source)
            if kept is not None:
                try:
                    grown = grown_files(kept["files"], source)
                    self.longest_hold = kept["longest_hold"]  # the files that came since may have another
                except KeyError as error:
                    raise ValueError(f"{self.folder} is of no recording: its settings do not say {error}.") from error
                except ValueError as error:
                    raise ValueError(f"{self.folder} is of another recording. {error} Choose another --out.") from error
        self.settings = {**settings, "source": about.source, "longest_hold": self.longest_hold, "files": files}
        if stream.multi_label:  # else nothing is said, as before there were such models
            self.settings["multi_label"] = True
        self._journal = Journal.open(self.folder, self.settings, resume)
        with self._journal.as_told():
            self._restore(state)
        if grown or (kept is not None and isinstance(source, Camera)):
            self._journal.reopen({"files": files, "source": about.source}, grown)
        self._num_events = 0
        if isinstance(source, Camera):
            source.prepare, self.state.sampler.prepare = stream.prepare, None  # small pictures wait, not large ones
            self.state.sampler.step_ahead = math.inf  # it may be away for days
        else:
            with self._journal.as_told():
                source.recall(self._journal.events())
            self._num_events = len(source.events)
            if len(source.paths) > 1:
                self.state.sampler.step_ahead = math.inf  # days may pass between two files
        self._smoother = Smoother(stream.smooth, stream.centred)
        self._file: IO[str] | None = None
        self._table: Any = None
        self.has_results = self._journal.state is not None and self.position > 0
        self._saved = -math.inf  # the first results at once: what an early stop leaves can be gone on with

    def _restore(self, state: StreamState | None) -> None:
        arrays = self._journal.state
        self._offset = 0.0  # seconds of the stream at which the results of this folder begin
        if arrays is not None:
            self._offset = float(arrays["offset"])
            if isinstance(self.source, Camera):
                self.source.recall(arrays["troubles"].tolist())
            self.state = self.stream.restore(arrays, self.longest_hold)
        elif state is not None:
            self._offset, self.state = state.done / self.stream.fps, state
            self._save()
        else:
            self.state = self.stream.start(self.longest_hold)

    @property
    def is_finished(self) -> bool:
        """Whether the final files are there."""
        written = self.outcome.get("written", [])
        return self._journal.is_finished and all((self.folder / name).exists() for name in written)

    @property
    def outcome(self) -> dict[str, Any]:
        """What `settings.json` says about how it went, once it is finished."""
        return self._journal.kept.get("outcome", {})

    @property
    def position(self) -> float:
        """Seconds of the recording that have results."""
        return self.state.done / self.stream.fps - self._offset

    def results(self) -> Generator[Result]:
        """Yields the results from here to the end, smoothed, while they are computed and saved.

        They can be read meanwhile, in results_so_far.csv. Closed early, all that has been computed is saved.

        Raises:
            VideoError: if there is no frame at all; the folder is then left as it was.
        """
        self.begin()
        try:
            for batch in self._batches():
                results = self.take(batch)
                try:
                    yield from results
                except GeneratorExit:
                    self._save()
                    raise
            yield from self.end()  # whose results are computed again if it is closed here
        except (VideoError, OSError):
            if self.state.sampler.time is None:
                self.discard()
            raise
        finally:
            self.close()

    def _batches(self) -> Iterator[list[Result]]:
        if isinstance(self.source, Recording):
            return self.stream.batches(self.source.frames(self.state.sampler.position), self.state)
        return self._batches_of_camera()

    def _batches_of_camera(self) -> Iterator[list[Result]]:
        for _, batch in self.stream.together([self.feed()]):
            if isinstance(batch, Exception):
                raise batch
            yield batch or []

    def feed(self) -> Feed:
        """Returns a camera's stream, for `VideoStream.together`."""
        assert isinstance(self.source, Camera)
        camera = self.source

        def is_late() -> bool:
            """Whether more than half of the camera's queue is waiting; then a clip is left out."""
            is_late = camera.waiting > camera.queue_size // 2
            camera.left_out += is_late
            return is_late

        return Feed(camera.frames(), self.state, is_late)

    def begin(self) -> None:
        """Opens results_so_far.csv, with the results of before the stop."""
        self._fill_in()
        if self._journal.state is None:
            self._save()  # so that records without a state are known to be damaged
            self._saved = -math.inf
        self._file = open_own(self.folder / SO_FAR, "w", encoding="utf-8", newline="")
        self._table = writers.begin_csv(self._file, self.about)
        for result in self._journal.results():
            self._write(self._smoother.add(result))
        self._file.flush()

    def take(self, batch: Sequence[Result]) -> list[Result]:
        """Keeps the next results of the stream, whose state is now after them; returns those that are smoothed."""
        batch = self._shifted(batch)
        self._keep(batch)
        if time.monotonic() - self._saved >= self.save_every:
            self._save()
        return self._write([smoothed for result in batch for smoothed in self._smoother.add(result)])

    def end(self) -> list[Result]:
        """Keeps what is left when the source has ended; returns the results that have not been returned.

        Raises:
            VideoError: if there was no frame at all.
        """
        if self.state.sampler.time is None:
            raise VideoError(f"No frame came from {self.about.source}.")
        self._save()  # what grows goes on from here, where what is left has no result yet
        last = self._shifted(self.stream.finish(self.state))
        self._keep(last)
        smoothed = [smoothed for result in last for smoothed in self._smoother.add(result)]
        return self._write(smoothed + self._smoother.finish())

    def close(self) -> None:
        """Closes what is open."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, which has been said: the file can be made anew
                self._file.close()

    @property
    def moment(self) -> datetime:
        """The moment up to which there are results, of a camera that has shown a frame."""
        moment = self.about.moment(self.position)
        assert moment is not None
        return moment

    def is_over(self, hours: float) -> bool:
        """Whether a camera has come to the end of the hours, counted from midnight, that it began in."""
        if self.about.started is None or not self.position:
            return False
        return self.moment.timestamp() >= next_roll(self.about.started, hours).timestamp()

    def following(self, folder: Path) -> "Run":
        """Closes this run of a camera, and returns one that goes on with its stream in another folder."""
        self._save()
        self.close()
        arguments = self.stream, self.source, folder, replace(self.about, started=None), self._own_settings
        return Run(
            *arguments, save_every=self.save_every, longest_hold=self.longest_hold, zone=self.zone, state=self.state
        )

    def discard(self) -> None:
        """Leaves nothing in the folder."""
        self.close()
        (self.folder / SO_FAR).unlink(missing_ok=True)
        self._journal.discard()

    def _shifted(self, batch: Sequence[Result]) -> list[Result]:
        if not self._offset:
            return list(batch)
        return [replace(r, start=r.start - self._offset, end=r.end - self._offset) for r in batch]

    def _save(self) -> None:
        troubles = np.array(self.source.troubles if isinstance(self.source, Camera) else [], "float64")
        self._journal.save({**self.state.to_arrays(), "offset": np.array(self._offset), "troubles": troubles})
        self._saved = time.monotonic()

    def _write(self, results: list[Result]) -> list[Result]:
        if results and self._file is not None:
            with full_disk_explained(self.folder / SO_FAR):
                self._table.writerows(writers.csv_row(result, self.about) for result in results)
                self._file.flush()
        return results

    def _keep(self, batch: list[Result]) -> None:
        """Appends results to the journal, and what has become known about the files since the last."""
        if isinstance(self.source, Recording):
            events = self.source.events[self._num_events :]
            self._num_events += len(events)
            self._journal.append(events)
        self._journal.append(batch)
        self.has_results |= bool(batch)
        self._fill_in()

    def _fill_in(self) -> None:
        """Completes what is known about the recording."""
        if isinstance(self.source, Recording):
            self.about = replace(
                self.about,
                started=self.source.started,
                files=tuple(self.source.spans),
                problems=tuple(self.source.problems),
            )
        elif self.about.started is None and self.state.sampler.origin is not None:
            moment = datetime.fromtimestamp(self.state.sampler.origin + self._offset, self.zone)
            self.about = replace(self.about, started=moment)

    def finish(self, with_video: bool = False, progress: bool = False) -> Timeline:
        """Writes the final files, and returns what the results add up to.

        Args:
            with_video: Whether to write the annotated video too; of a `Recording` only.
            progress: Whether to show a progress bar for that video.
        """
        self._fill_in()

        def results() -> Iterator[Result]:
            return smooth(self._journal.results(), self.stream.smooth, self.stream.centred)

        timeline = timeline_of(results())
        if not timeline.duration:
            raise VideoError(f"There are no results in {self.folder}.")
        if isinstance(self.source, Camera):
            what = self.source.problems()
            if self.state.sampler.shift:  # of one that was gone on with
                what.append(f"the clock was set back by {self.state.sampler.shift:.1f} s: times go on as before")
            problems = tuple(Problem(self.about.source, DAMAGED, problem, timeline.duration) for problem in what)
            self.about = replace(self.about, problems=problems)

        def write() -> None:
            folder, about = self.folder, self.about
            writers.write_csv(folder / "results.csv", results(), about)
            writers.write_jsonl(folder / "results.jsonl", results(), about)
            writers.write_bouts(folder / "bouts.csv", timeline, about)
            writers.write_boris(folder / "boris.csv", timeline, about)
            writers.write_edf(folder / "annotations.edf", timeline, about)
            writers.write_webvtt(folder, timeline, about)
            density = report.Density(results(), timeline.duration, len(about.labels))
            picture = report.render(report.draw(density, timeline, about))
            report.write_png(folder / "report.png", picture)
            notes = {name: str(value) for name, value in self.settings.items() if not isinstance(value, list)}
            report.write_html(folder / "report.html", picture, timeline, about, notes)
            (folder / "annotated.mp4").unlink(missing_ok=True)  # of when there was less of it
            if with_video:
                assert isinstance(self.source, Recording)
                share = self.stream.crop / self.stream.short_side
                sampler = Sampler(about.fps, self.longest_hold)
                sampler.step_ahead = self.state.sampler.step_ahead
                pictures = annotate(self.source.frames(), results(), about, sampler, share)
                bar = Bar(pictures, unit="frame", leave=False, disable=None if progress else True)
                write_video(folder / "annotated.mp4", bar, about.fps)
            (folder / SO_FAR).unlink(missing_ok=True)

        outcome = {
            "started": self.about.iso(0.0) or None,
            "seconds": timeline.duration,
            "unscored_seconds": timeline.unscored,
            "recordings": [asdict(span) for span in self.about.files],
            "problems": [asdict(problem) for problem in self.about.problems],
        }
        self._journal.finish(write, outcome)
        return timeline
