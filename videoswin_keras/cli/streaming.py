"""What `videoswin stream` does."""

import argparse
import hashlib
import os
import re
import signal
import sys
import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from videoswin_keras import __version__
from videoswin_keras.cli.inputs import find_videos, natural, read_classes
from videoswin_keras.streaming.camera import Camera, is_live, public_name
from videoswin_keras.streaming.journal import check_is_new
from videoswin_keras.streaming.timeline import summarise
from videoswin_keras.streaming.writers import About, length_of_time


def stream(options: argparse.Namespace) -> int:
    """Streams what was asked for on the command line; returns the exit code."""
    # What is wrong is said before anything is loaded, and before hours are spent.
    started = _time_of_day(options.start)
    if not options.out:
        raise ValueError("--out must name a folder.")
    if not options.save_every > 0:
        raise ValueError(f"--save-every must be positive. Received: {options.save_every}.")
    classes = read_classes(options.classes) if options.classes else None
    sources = _sources(options)
    _check_output(Path(options.out), list(sources), options.resume)

    import keras

    from videoswin_keras.backend import device
    from videoswin_keras.checkpoints.load import locate
    from videoswin_keras.classification import load_classifier
    from videoswin_keras.streaming.stream import VideoStream

    is_camera = any(isinstance(source, str) for source in sources.values())
    failed = 0
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
            "batch_size": 1 if is_camera else options.batch_size,
        }
        stream = VideoStream(model, **arguments)
        print(
            f"Clips: {stream.clip_frames} frames at {stream.fps:g} per second, every {stream.stride} frames; "
            f"shorter side {stream.short_side}, of which the middle {stream.crop} × {stream.crop} pixels are looked at",
            file=sys.stderr,
        )
        settings = {
            "version": __version__,
            "weights": weights.name,
            "sha256": _sha256(weights),
            "backend": keras.backend.backend(),
            "keras": keras.version(),
            "annotate": options.annotate,
            "labels": list(labels),
            **arguments,
        }
        for name, source in sources.items():
            about = About(name, labels, _described(source), options.fps, started)
            try:
                failed += _stream(stream, source, about, settings, options)
            except BrokenPipeError:
                raise
            except (ValueError, OSError) as error:
                failed += 1
                print(f"videoswin: {name} failed: {error}", file=sys.stderr)
    return 1 if failed else 0


def _stream(stream: Any, source: list[Path] | str, about: Any, settings: dict, options: argparse.Namespace) -> bool:
    """Runs one recording or camera to its end; returns whether parts of it could not be read."""
    from videoswin_keras.streaming.recording import Recording
    from videoswin_keras.streaming.run import Run

    frames = Camera(source, options.fps) if isinstance(source, str) else Recording(source)
    files = [] if isinstance(source, str) else [f"{_text(path.name)}, {path.stat().st_size} bytes" for path in source]
    own = {**settings, "source": about.source, "files": files, "start": options.start}
    run = Run(stream, frames, Path(options.out) / about.name, about, own, options.resume, options.save_every)
    if run.is_finished:
        print(f"{about.name}: done already, see {run.folder}")
        return False
    if run.position:
        print(f"{about.name}: goes on at {length_of_time(run.position)}.", file=sys.stderr)
    try:
        if isinstance(frames, Camera):
            _watch(run, frames, options.hours)
        else:
            _read(run, frames)
    except KeyboardInterrupt:
        print(f"videoswin: {about.name} is kept as it was last saved; --resume goes on from there.", file=sys.stderr)
        raise
    timeline = run.finish(options.annotate, progress=True)
    total = timeline[-1].end
    print(f"{about.name}: {length_of_time(total)}, see {run.folder}")
    shares = [summary.share for summary in summarise(timeline, len(about.labels))]
    for share, label in sorted(zip(shares, about.labels, strict=True), reverse=True)[:10]:
        if share:
            print(f"  {100 * share:6.2f} % of what is scored  {label}")
    if unscored := sum(bout.duration for bout in timeline if bout.label is None):
        print(f"  {length_of_time(unscored)} of it unscored")
    return isinstance(frames, Recording) and bool(frames.damaged)


def _read(run: Any, recording: Any) -> None:
    """Takes a recording to its end, behind a progress bar in seconds of video."""
    interrupted = threading.Event()

    def interrupt(*_: Any) -> None:
        interrupted.set()  # the exception alone is lost where it meets a callback of the garbage collector
        raise KeyboardInterrupt

    total, earlier = recording.duration(), signal.getsignal(signal.SIGINT)
    is_heard = earlier is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if is_heard:
        signal.signal(signal.SIGINT, interrupt)
    try:
        with tqdm(
            total=total and round(total), initial=round(run.position), unit="s", disable=None, leave=False
        ) as bar:
            for result in run.results():
                bar.update(round(result.end) - bar.n)
                if interrupted.is_set():
                    break
        if interrupted.is_set():
            raise KeyboardInterrupt
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, earlier)


def _watch(run: Any, camera: Any, hours: float | None) -> None:
    """Prints what a camera shows until it is stopped."""

    def stop(*_: Any) -> None:
        camera.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # at the second Ctrl-C nothing is waited for

    earlier = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    timer = threading.Timer(hours * 3600, camera.close) if hours else None
    if timer:
        timer.daemon = True
        timer.start()
    print("Ctrl-C stops and writes the report.", file=sys.stderr)
    try:
        for result in run.results():
            sampler = run.state.sampler
            moment = f"{datetime.fromtimestamp(sampler.origin + result.end):%H:%M:%S}"
            sure = "" if result.smoothed is None else f"{max(result.smoothed):5.0%}"
            state = f"{camera.clock() - sampler.position:.1f} s behind"
            for count, what in ((camera.dropped, "frames dropped"), (run.left_out, "clips left out")):
                state += f", {count} {what}" if count else ""
            print(f"{moment}  {run.about.label(result.smoothed_label)} {sure}  ({state})", flush=True)
    finally:
        if timer:
            timer.cancel()
        for name, handler in earlier.items():
            signal.signal(name, handler)


def _sources(options: argparse.Namespace) -> dict[str, list[Path] | str]:
    """Returns what to stream by the name of its folder: the files of a recording, or a camera."""
    cameras = [source for source in options.sources if is_live(source)]
    if cameras:
        if len(options.sources) > 1:
            raise ValueError(f"One camera at a time, and no files beside it. Received: {', '.join(options.sources)}.")
        if options.join or options.annotate or options.start:
            raise ValueError("--join, --annotate and --start are for recordings, not for a camera.")
        if options.hours is not None and not options.hours > 0:
            raise ValueError(f"--hours must be positive. Received: {options.hours}.")
        return {re.sub(r"\W+", "_", public_name(cameras[0])).strip("_"): cameras[0]}
    if options.hours is not None:
        raise ValueError("--hours is for a camera.")
    out = Path(options.out).absolute()
    videos = [video for video in find_videos(options.sources) if out not in video.absolute().parents]
    if not videos:
        raise FileNotFoundError(f"There are no video files but those in --out {options.out}.")
    for video in videos:
        if not video.is_file():
            raise FileNotFoundError(f"No video file at {video}. Is the path right?")
    if options.join:
        first = Path(options.sources[0])
        return {first.stem if first.is_file() else first.resolve().name: sorted(videos, key=natural)}
    if options.start and len(videos) > 1:
        raise ValueError(f"--start is for one recording. Received: {len(videos)} files; --join makes them one.")
    names = [_text(video.stem) for video in videos]
    if _twice(names):
        names = [_text(f"{video.resolve().parent.name}_{video.stem}") for video in videos]
    if twice := _twice(names):
        raise ValueError(f"Two recordings would have the folder {twice}. Give them in two calls, each with its --out.")
    return {name: [video] for name, video in zip(names, videos, strict=True)}


def _twice(names: list[str]) -> str | None:
    """Returns a name that is there twice, where case does not count, as on macOS and Windows."""
    counts = Counter(name.casefold() for name in names)
    return next((name for name in names if counts[name.casefold()] > 1), None)


def _text(name: str) -> str:
    """Returns a file name as text that can be written, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def _described(source: list[Path] | str) -> str:
    if isinstance(source, str):
        return public_name(source)
    more = f" and {len(source) - 1} more files" if len(source) > 1 else ""
    return _text(source[0].name) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _time_of_day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f'--start must be a date and time such as "2026-11-20 21:30". Received: {text!r}.') from error
    if moment.tzinfo is not None:
        raise ValueError(f"--start must be the time of day at the camera, without a time zone. Received: {text!r}.")
    return moment.replace(microsecond=0)


def _check_output(out: Path, names: list[str], resume: bool) -> None:
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PermissionError(f"--out {out} cannot be written to: {existing} is a file, or write-protected.")
    if not resume:
        for name in names:
            check_is_new(out / name)
