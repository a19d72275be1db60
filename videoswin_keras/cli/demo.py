"""`videoswin demo`: draws videos and a night, and classifies them, with nothing to download."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from videoswin_keras.atomic import make_own_folder
from videoswin_keras.cli import stream

HELP = "Draw synthetic videos of moving shapes, and a night of them, and classify them with the small model that ships."
EXAMPLES = """examples:
  videoswin demo
  videoswin demo --output my_folder"""
NEEDS = stream.NEEDS

WEIGHTS = "pico_moving_shapes"
SEED = 2_000_000  # far from those of training
NIGHT_RATE = 8  # frames per second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo", help="folder for the videos (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    import keras

    from videoswin_keras.cli.main import perform
    from videoswin_keras.data.synthetic import MOTIONS, moving_shape, moving_shapes_recording
    from videoswin_keras.video.encode import write_video

    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output must be a folder. Received: the file {folder}.")
    night = folder / "moving_shapes_night" / "night.mp4"
    results = night.parent / "results"
    for own in (folder, night.parent, results):
        make_own_folder(own)
    videos = []
    for number, motion in enumerate(MOTIONS):
        path = folder / f"{motion.replace(' ', '_')}.mp4"
        write_video(path, moving_shape(number, SEED + number, frames=48, size=(128, 128)))
        videos.append(str(path))
    program = f"KERAS_BACKEND={keras.backend.backend()} {_program()}"
    chosen = ["--weights", WEIGHTS, "--top", "2"]
    files = f"{shlex.quote(str(folder))}/*.mp4"
    print(f"Drew {len(videos)} videos. Now: {program} classify {files} {shlex.join(chosen)}\n", flush=True)
    code = perform(["classify", *videos, *chosen])

    shutil.rmtree(results / "night", ignore_errors=True)  # of an earlier demo; a link is not followed
    write_video(night, moving_shapes_recording(night_bouts(), SEED), NIGHT_RATE)
    command = ["stream", str(night), "--weights", WEIGHTS, "--fps", str(NIGHT_RATE), "--start", "2026-11-20 21:55"]
    command += ["--out", str(results), "--resume"]  # typed again, it finds that all is done
    print(f"\nDrew a night of a quarter of an hour. Now: {program} {shlex.join(command)}\n", flush=True)
    if streamed := perform(command):
        return streamed
    print(f"\nIts hypnogram: {results / 'night' / 'report.png'}")
    return code


def _program() -> str:
    """Returns how this command was called, as a shell takes it."""
    if Path(sys.argv[0]).stem == "videoswin":
        return shlex.quote(sys.argv[0])
    return shlex.join([sys.executable, "-m", "videoswin_keras"])


def night_bouts() -> list[tuple[int | None, int]]:
    """Returns bouts of one motion or another of up to a minute and a half, and an outage of 40 seconds."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    bouts: list[tuple[int | None, int]] = []
    for number in range(16):
        motion = (number + rng.integers(1, 7)) % 8  # rarely the same twice
        bouts.append((int(motion), int(NIGHT_RATE * rng.uniform(20, 90))))
    bouts.insert(7, (None, 40 * NIGHT_RATE))
    return bouts
