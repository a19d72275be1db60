"""Cameras on their way into folders: all at once, and a folder for each day if asked for."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from videoswin_keras.streaming.journal import SETTINGS
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.streaming.timeline import Result


def watch(
    stream: VideoStream, runs: Sequence[Run], on_end: Callable[[Run], None], roll: float | None = None
) -> Iterator[tuple[Run, Result]]:
    """Yields what cameras show, and keeps it, until they are closed.

    Args:
        stream: With a `batch_size` of at least one for each camera.
        runs: Of one `Camera` each.
        on_end: Function of a run, which writes its files: called when its camera has been closed, or its time is over.
        roll: Float from 0 to 24. Hours after which a camera goes on in another folder, beside the one before and called
            by date and time; counted from midnight.
    """
    now = list(runs)
    for run in now:
        run.begin()
    for number, batch in stream.together([run.feed() for run in runs]):
        run = now[number]
        if batch is None:
            for result in run.end():
                yield run, result
            run.close()
            on_end(run)
            continue
        for result in run.take(batch):
            yield run, result
        if roll is not None and run.is_over(roll):
            now[number] = run.following(period_folder(run.folder.parent, run.moment))
            on_end(run)
            now[number].begin()


def period_folder(folder: Path, moment: datetime) -> Path:
    """Returns the folder of the results from a moment on, in the folder of a camera."""
    return folder / f"{moment:%Y-%m-%d_%H%M%S}"


def latest_period(folder: Path) -> Path | None:
    """Returns the last folder of a camera that has results; None if there is none."""
    return max((path.parent for path in folder.glob(f"*/{SETTINGS}")), default=None)
