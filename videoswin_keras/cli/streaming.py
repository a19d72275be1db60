"""What `videoswin stream` does."""

import argparse
import contextlib
import functools
import hashlib
import logging
import math
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from videoswin_keras import __version__
from videoswin_keras.addresses import identity, is_address, public_address
from videoswin_keras.atomic import make_own_folder
from videoswin_keras.cli import signals
from videoswin_keras.cli.inputs import find_videos, read_classes, read_sources
from videoswin_keras.progress import Bar
from videoswin_keras.streaming import clocks
from videoswin_keras.streaming.about import About, length_of_time
from videoswin_keras.streaming.camera import SCHEMES, Camera, is_live
from videoswin_keras.streaming.journal import check_is_new, period_folder, periods, read_settings
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.sources import Clocks, Source, cameras, one_recording, single_recordings
from videoswin_keras.streaming.timeline import summarise
from videoswin_keras.text import printable, writable

# A frame would be shown more often than this, on average: --fps is not meant for this video.
_MOST_REPEATS = 4


def stream(options: argparse.Namespace) -> int:
    """Streams what was asked for on the command line; returns the exit code."""
    # What is wrong is said before anything is loaded, and before hours are spent.
    if not options.out:
        raise ValueError("--out must name a folder.")
    for name in ("save_every", "hold", "hours", "roll"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be positive and finite. Received: {value:g}.")
    classes = read_classes(options.classes) if options.classes else None
    sources, num_passed_over = _sources(options)
    is_camera = sources[0].address is not None
    _check_output(Path(options.out), [source.folder for source in sources], options.resume)
    recordings = [] if is_camera else [(source, _recording(source, options)) for source in sources]

    import keras

    from videoswin_keras.backend import device
    from videoswin_keras.checkpoints.load import locate
    from videoswin_keras.classification import load_classifier
    from videoswin_keras.streaming.stream import VideoStream

    with device(options.device):
        weights = locate(options.weights)
        model, labels, protocol = load_classifier(options.weights, classes)
        arguments = {
            "fps": options.fps,
            "clip_frames": protocol.clip_frames if options.frames is None else options.frames,
            "stride": options.stride,
            "smooth": options.smooth,
            "centred": not is_camera,
            "short_side": protocol.short_side_single,
            "crop": protocol.crop,
        }
        batch_size = len(sources) if is_camera else options.batch_size
        stream = VideoStream(model, **arguments, batch_size=batch_size)
        print(
            f"Clips: {stream.clip_frames} frames at {stream.fps:g} per second, every {stream.stride} frames; "
            f"shorter side {stream.short_side}, of which the middle {stream.crop} × {stream.crop} pixels are looked at",
            file=sys.stderr,
        )
        settings = {
            "version": __version__,
            "weights": writable(weights.name),
            "sha256": _sha256(weights),
            "backend": keras.backend.backend(),
            "keras": keras.version(),
            "labels": list(labels),
            **arguments,
            "zone": str(clocks.read_zone(options.zone)),
        }
        template = About("", tuple(labels), "", stream.fps, stream.clip_frames, multi_label=stream.multi_label)
        if is_camera:
            return _watch(stream, sources, template, settings, options)
        settings |= {"batch_size": batch_size}
        work = functools.partial(_read, stream, template, settings, options)
        codes = [_tried(source.name, functools.partial(work, source, *opened)) for source, opened in recordings]
        return max(int(num_passed_over > 0), *codes)


def _tried(name: str, work: Callable[[], int | None]) -> int:
    """Returns the exit code of `work`, or 1 after saying why it failed, so that others go on."""
    try:
        return work() or 0
    except Exception as error:
        if not isinstance(error, ValueError | OSError | ImportError):
            logging.getLogger(__name__).exception("%s failed", name)
            return 1
        print(f"videoswin: {name} failed: {error}", file=sys.stderr)
        return 1


def _recording(source: Source, options: argparse.Namespace) -> tuple[Recording, float]:
    """Returns a recording, and the least of the rates of its files, in frames per second."""
    recording = Recording(source.paths, source.starts, options.input_rate)
    rates = recording.rates()
    if rates and options.fps > _MOST_REPEATS * max(rates):
        raise ValueError(
            f"--fps {options.fps:g} is more than {_MOST_REPEATS} times the {max(rates):.3g} frames per second that "
            f"{source.described} has: they would be looked at again and again. --fps {max(rates):.3g} takes each once."
        )
    return recording, min(rates, default=1.0)


def _read(
    stream: Any,
    template: About,
    settings: dict,
    options: argparse.Namespace,
    source: Source,
    recording: Recording,
    rate: float,
) -> int:
    """Takes a recording to its end, behind a progress bar in seconds of video; returns the exit code."""
    from videoswin_keras.streaming.run import Run

    # A frame of a time lapse stands for longer than one of a video.
    hold = options.hold or max(stream.longest_hold, 2 / rate)
    own = {**settings, "hold": options.hold, "input_rate": options.input_rate}
    about = replace(template, name=source.name, source=source.described)
    folder = Path(options.out) / source.folder
    run = Run(stream, recording, folder, about, own, options.resume, options.save_every, hold)
    if run.is_finished and (not options.annotate or (run.folder / "annotated.mp4").exists()):
        print(f"{about.name}: done already, see {run.folder}")
        return int(bool(run.outcome.get("problems")))
    if run.position:
        print(f"{about.name}: goes on at {length_of_time(run.position)}.", file=sys.stderr)
    heard: list[int] = []

    def stop(number: int) -> None:
        heard.append(number)
        print("videoswin: stops after the clips at hand; Ctrl-C again stops at once.", file=sys.stderr)

    try:
        with signals.handled(stop):
            total = recording.duration()
            bar = Bar(total=total and round(total), initial=round(run.position), unit="s", disable=None, leave=False)
            with bar, contextlib.closing(run.results()) as results:
                for result in results:
                    bar.update(round(result.end) - bar.n)
                    if heard:
                        break
        if heard:
            raise signals.Stopped(heard[0])
    except KeyboardInterrupt:
        print(f"videoswin: {about.name} is kept as it is; --resume goes on from there.", file=sys.stderr)
        raise
    _finish(run, options.annotate)
    return int(bool(run.about.problems))


def _finish(run: Any, with_video: bool = False) -> None:
    """Writes the files of a recording or a camera, and prints what they say."""
    timeline = run.finish(with_video, progress=True)
    about = run.about
    print(f"{about.name}: {length_of_time(timeline.duration)}, see {run.folder}")
    shares = [summary.share for summary in summarise(timeline, len(about.labels))]
    for share, label in sorted(zip(shares, about.labels, strict=True), reverse=True)[:10]:
        if share:
            print(f"  {100 * share:6.2f} % of what is scored  {printable(label)}")
    if timeline.unscored:
        print(f"  {length_of_time(timeline.unscored)} of it unscored")
    for problem in about.problems:
        print(f"  {about.clock(problem.at)} {problem.file} {problem.what}")


def _watch(stream: Any, sources: list[Source], template: About, settings: dict, options: argparse.Namespace) -> int:
    """Prints what cameras show until they are stopped; returns the exit code."""
    from videoswin_keras.streaming.watch import watch

    runs: list[Any] = []
    failed = 0
    for source in sources:
        begin = functools.partial(_begin_camera, runs, stream, source, template, settings, options)
        failed |= _tried(source.name, begin)
    for run in runs if len(runs) > 1 else []:
        print(f"{run.about.source} → {run.folder}", file=sys.stderr)

    def close(*_: Any) -> None:
        for run in runs:
            run.source.close()

    def write(run: Any, error: Exception | None) -> None:
        nonlocal failed

        def work() -> None:
            if error is None:
                _finish(run)
            else:
                if not run.has_results:
                    run.discard()
                raise error

        failed |= _tried(run.about.name, work)

    timer = threading.Timer(options.hours * 3600, close) if options.hours else None
    if timer:
        timer.daemon = True
        timer.start()
    if runs:
        print("Ctrl-C stops and writes the reports.", file=sys.stderr)
    try:
        with signals.handled(close):
            for run, result in watch(stream, runs, write, options.roll):
                _print_live(run, result, f"{run.about.source}  " if len(runs) > 1 else "")
    finally:
        close()
        if timer:
            timer.cancel()
    return failed


def _begin_camera(
    runs: list[Any], stream: Any, source: Source, template: About, settings: dict, options: argparse.Namespace
) -> int:
    """Adds the run of a camera, a new one or the last one in its folder to go on with; returns an exit code."""
    from videoswin_keras.streaming.run import Run

    assert source.address is not None
    zone, folder = clocks.read_zone(options.zone), Path(options.out) / source.folder
    camera = Camera(source.address, options.fps)
    own = {**settings, "hold": options.hold, "camera": identity(source.address), "roll": options.roll}
    about = replace(template, name=source.name, source=source.described)
    arguments = about, own, options.resume, options.save_every, options.hold, zone

    def finish_earlier(path: Path) -> None:
        """Writes the report of a period that was not written when this was killed."""
        kept = read_settings(path)
        if kept is None or kept["is_finished"]:
            return
        run = Run(stream, Camera(source.address or "", options.fps), path, *arguments)
        if run.has_results:
            _finish(run)
        else:
            run.discard()

    code = 0
    if options.roll:
        make_own_folder(folder)
        *earlier, folder = (options.resume and periods(folder)) or [
            period_folder(folder, datetime.fromtimestamp(camera.clock(), zone))
        ]
        for path in earlier:
            code |= _tried(f"{source.name}/{path.name}", functools.partial(finish_earlier, path))
    run = Run(stream, camera, folder, *arguments)
    if run.position:
        print(f"{source.described} goes on in {folder}, after {length_of_time(run.position)}.", file=sys.stderr)
    runs.append(run)
    return code


def _print_live(run: Any, result: Any, prefix: str) -> None:
    camera, about = run.source, run.about
    there = [f"{about.label(label)} {result.smoothed[label]:5.0%}" for label in result.smoothed_labels or ()]
    what = printable(" + ".join(there) or f"{about.named(result.smoothed_labels)} ")
    state = f"{camera.clock() - run.state.sampler.position:.1f} s behind"
    state += f", {lost}" if (lost := camera.lost_in_words()) else ""
    print(f"{prefix}{about.clock(result.end)}  {what}  ({state})", flush=True)


def _sources(options: argparse.Namespace) -> tuple[list[Source], int]:
    """Returns what to stream, and how much was passed over in folders, after saying what."""
    if options.source_file is not None:
        options.sources = [*options.sources, *read_sources(options.source_file)]
    if not options.sources:
        raise ValueError("There is nothing to stream: give a SOURCE, or a --source-file with some in it.")
    live = [source for source in options.sources if is_live(source)]
    if live:
        if len(live) < len(options.sources):
            received = ", ".join(map(public_address, options.sources))
            raise ValueError(f"Cameras, or files, but not both at once. Received: {received}.")
        for name in ("join", "annotate", "start", "name_format", "input_rate"):
            if getattr(options, name):
                raise ValueError(f"--{name.replace('_', '-')} is for recordings, not for a camera.")
        if options.roll is not None and options.roll > 24:
            raise ValueError(f"--roll takes at most 24 hours. Received: {options.roll:g}.")
        return cameras(live), 0
    if unknown := [source for source in options.sources if is_address(source) and not Path(source).exists()]:
        kinds = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        raise ValueError(f"{public_address(unknown[0])} is no address of a camera: those begin with {kinds}.")
    for name in ("hours", "roll"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for a camera.")
    out = Path(options.out).absolute()
    found, passed_over = find_videos(options.sources)
    videos = [video for video in found if out not in video.absolute().parents]
    for _, error in passed_over:
        print(f"videoswin: skipped: {error}", file=sys.stderr)
    if not videos:
        raise FileNotFoundError(f"There are no video files but those in --out {options.out}.")
    for video in videos:
        if not video.is_file():
            raise FileNotFoundError(f"No video file at {video}. Is the path right?")
    clock = _clocks(options)
    if options.join:
        first = Path(options.sources[0])
        is_in_order = all(Path(source).is_file() for source in options.sources)
        name = first.stem if first.is_file() else first.resolve().name
        return [one_recording(name, videos, clock, is_in_order)], len(passed_over)
    if clock.start is not None and len(videos) > 1:
        raise ValueError(
            f"--start with a date and time is for one recording. Received: {len(videos)} files; --join makes them one, "
            f"and a table gives each its own (--start starts.csv, with the columns file and start)."
        )
    return list(single_recordings(videos, clock)), len(passed_over)


def _clocks(options: argparse.Namespace) -> Clocks:
    zone = clocks.read_zone(options.zone)
    if options.name_format is not None:
        clocks.check_name_format(options.name_format)
    if options.start is None:
        return Clocks(zone, options.name_format)
    if Path(options.start).is_file():
        return Clocks(zone, options.name_format, listed=clocks.read_starts(options.start, zone))
    try:
        return Clocks(zone, options.name_format, clocks.read_moment(options.start, zone))
    except ValueError as error:
        raise ValueError(
            f'--start must be a date and time such as "2026-11-20 21:30", or the file of a table of them with the '
            f"columns file and start. Received: {options.start!r}, and there is no such file."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _check_output(out: Path, names: list[str], resume: bool) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PermissionError(f"--out {out} cannot be written to: {existing} is a file, or write-protected.") from error
    if not resume:
        for name in names:
            check_is_new(out / name)
            for period in periods(out / name):
                if not (read_settings(period) or {}).get("is_finished"):
                    check_is_new(period)
