"""`videoswin stream`: what happens in recordings of hours, or before a camera."""

import argparse

HELP = "Classify recordings of any length, or live video, clip after clip."
EXAMPLES = """examples:
  videoswin stream night.mp4 --weights sows.keras --classes stages.txt --out results
  videoswin stream night.mp4 --weights sows.keras --classes stages.txt --out results --resume
  videoswin stream card/ --join --start "2026-11-20 21:30" --weights sows.keras --out results
  videoswin stream rtsp://10.0.0.7/1 --weights sows.keras --out results --hours 10

Each recording gets a folder in --out: results.csv, results.jsonl, bouts.csv, boris.csv (BORIS's aggregated events),
annotations.edf (EDF+), labels.vtt (WebVTT), report.png, report.html. Killed at any moment, it goes on with --resume."""

NEEDS = ("av", "cv2", "matplotlib", "edfio", "webvtt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="video files, or folders of them; or one camera: camera:0, or an address such as rtsp://…",
    )
    parser.add_argument(
        "--weights", required=True, help="a .keras model, a checkpoint of any known format, or a name of the zoo"
    )
    parser.add_argument("--out", required=True, help="folder for the results")
    parser.add_argument("--classes", help="text file of class names, one per line (default: the checkpoint's own)")
    parser.add_argument("--fps", type=float, default=4.0, help="frames per second to look at (default: %(default)s)")
    parser.add_argument("--frames", type=int, help="frames of a clip (default: the model's own, else 32)")
    parser.add_argument("--stride", type=int, default=8, help="a clip every so many frames (default: %(default)s)")
    parser.add_argument(
        "--smooth", type=int, default=9, help="results the median is taken of, 1 to 99 (default: %(default)s)"
    )
    parser.add_argument(
        "--join", action="store_true", help="take all files as one recording, in the order of their names"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in --out, where it was stopped")
    parser.add_argument(
        "--start", help='date and time of day of the first frame, as "2026-11-20 21:30", for the reports'
    )
    parser.add_argument(
        "--annotate", action="store_true", help="also write a video with label, probabilities and clock"
    )
    parser.add_argument("--hours", type=float, help="stop a camera after so many hours (default: at Ctrl-C)")
    parser.add_argument(
        "--batch-size", type=int, default=4, help="clips of a recording to compute at once (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every", type=float, default=60.0, help="seconds after which all is saved (default: %(default)s)"
    )
    parser.add_argument("--device", help="where to compute: cpu, gpu, gpu:1, … (default: the backend's choice)")


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.cli.streaming import stream

    return stream(options)
