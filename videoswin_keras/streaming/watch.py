"""Cameras on their way into folders: all at once, and a folder for each day if asked for."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from videoswin_keras.streaming.camera import Camera
from videoswin_keras.streaming.journal import period_folder
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.streaming.timeline import Result


def watch(
    stream: VideoStream,
    runs: Sequence[Run],
    on_end: Callable[[Run, Exception | None], None],
    roll: float | None = None,
) -> Iterator[tuple[Run, Result]]:
    """Yields what cameras show, and keeps it, until they are closed.

    What goes wrong with one camera ends that one: the others go on.

    Args:
        stream: With a `batch_size` of at least one for each camera.
        runs: Of one `Camera` each.
        on_end: Function that writes the files of a run, called in a thread of its own when its camera has been closed
            or its time is over; or is told the error with which it ended.
        roll: Float from 0 to 24. Hours after which a camera goes on in another folder, beside the one before and called
            by date and time; counted from midnight.
    """
    now: list[Run | None] = list(runs)
    written: list[Future[None]] = []
    with ThreadPoolExecutor(1, "reports") as reports:

        def end(number: int, error: Exception | None) -> None:
            run, now[number] = now[number], None
            assert run is not None
            assert isinstance(run.source, Camera)
            run.source.close()
            run.close()
            if error is None and not run.has_results:
                run.discard()
            else:
                written.append(reports.submit(on_end, run, error))

        for number, first in enumerate(runs):
            try:
                first.begin()
            except Exception as error:
                end(number, error)
        for number, batch in stream.together([run.feed() for run in runs]):
            run = now[number]
            if run is None:
                continue
            try:
                if isinstance(batch, Exception):
                    raise batch
                for result in run.end() if batch is None else run.take(batch):
                    yield run, result
                if batch is None:
                    end(number, None)
                elif roll is not None and run.is_over(roll):
                    following = run.following(period_folder(run.folder.parent, run.moment))
                    following.begin()
                    now[number] = following
                    written.append(reports.submit(on_end, run, None))
            except Exception as error:
                end(number, error)
        for report in written:
            report.result()  # raises what `on_end` did not catch
