"""`videoswin demo`: draws videos and classifies them, with nothing to download."""

import argparse
from pathlib import Path

HELP = "Draw synthetic videos of moving shapes and classify them with the small model that ships."
EXAMPLES = """examples:
  videoswin demo
  videoswin demo --output my_folder"""

WEIGHTS = "pico_moving_shapes"
SEED = 2_000_000  # far from those of training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo", help="folder for the videos (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.cli.main import main
    from videoswin_keras.data.synthetic import MOTIONS, moving_shape
    from videoswin_keras.video.encode import write_video

    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output must be a folder. Received: the file {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    videos = []
    for number, motion in enumerate(MOTIONS):
        path = folder / f"{motion.replace(' ', '_')}.mp4"
        write_video(path, moving_shape(number, SEED + number, frames=48, size=(128, 128)))
        videos.append(str(path))
    print(f"Drew {len(videos)} videos. Now: videoswin classify {folder} --weights {WEIGHTS} --top 2\n", flush=True)
    return main(["classify", *videos, "--weights", WEIGHTS, "--top", "2"])
