"""`videoswin stream`: what happens in recordings of hours, or before a camera."""

import argparse

from videoswin_keras.cli.inputs import add_input_rate

HELP = "Classify recordings of any length, or live video, clip after clip."
EXAMPLES = """examples:
  videoswin stream night.mp4 --weights sows.keras --classes stages.txt --out results
  videoswin stream night.mp4 --weights sows.keras --classes stages.txt --out results --resume
  videoswin stream card/ --join --weights sows.keras --out results
  videoswin stream a.mp4 b.mp4 --join --start "2026-11-20 21:30" --weights sows.keras --out results
  videoswin stream rtsp://10.0.0.7/1 rtsp://10.0.0.8/1 --weights sows.keras --out results --roll 24h
  videoswin stream --source-file cameras.txt --weights sows.keras --out results

Each recording gets a folder in --out: results.csv, results.jsonl, bouts.csv, boris.csv (BORIS's aggregated events),
annotations.edf (EDF+), labels.vtt (WebVTT), report.png, report.html; results_so_far.csv while it runs. Killed at any
moment, it goes on with --resume; so does a recording that has grown since.

When a file begins is read from its name (20261120_213000.mp4, 2026-11-20 21-30.mkv, …), else from its container. With
--join, what lies between two files is a gap; without any clock a file begins where the one before says that it ends."""

NEEDS = ("av", "cv2", "matplotlib", "edfio", "webvtt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="video files, or folders of them; or cameras: camera:0, or addresses such as rtsp://…",
    )
    parser.add_argument(
        "--source-file",
        help="text file of more sources, one per line (# begins a comment): where addresses have passwords, which "
        "neither `ps` nor the shell's history should show",
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
        "--join",
        action="store_true",
        help="take all files as one recording: as they are given, those of a folder by their clocks, else names",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what is in --out, where it was stopped")
    parser.add_argument(
        "--start",
        help='when the first frame was taken, as "2026-11-20 21:30", where names do not say it or say it wrong; or a '
        "table with the columns file and start",
    )
    parser.add_argument("--name-format", help="how names say when a file begins, as %%d%%m%%y_%%H%%M (strptime)")
    parser.add_argument("--zone", help='whose clocks these are, as "Europe/Berlin" (default: this machine\'s)')
    add_input_rate(parser)
    parser.add_argument(
        "--hold",
        type=float,
        help="seconds for which a frame stands for what follows (default: 2, or twice the time from frame to frame)",
    )
    parser.add_argument(
        "--annotate", action="store_true", help="also write a video with label, probabilities and clock"
    )
    parser.add_argument("--hours", type=_hours, help="stop cameras after so many hours (default: at Ctrl-C)")
    parser.add_argument(
        "--roll", type=_hours, help="hours after which a camera goes on in another folder: 24h is one a day"
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, help="clips of a recording to compute at once (default: %(default)s)"
    )
    parser.add_argument(
        "--save-every", type=float, default=60.0, help="seconds after which all is saved (default: %(default)s)"
    )
    parser.add_argument("--device", help="where to compute: cpu, gpu, gpu:1, … (default: the backend's choice)")


def _hours(text: str) -> float:
    try:
        return float(text.removesuffix("h"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number of hours, as 24h or 0.5. Received: {text!r}") from error


def run(options: argparse.Namespace) -> int:
    from videoswin_keras.cli.streaming import stream

    return stream(options)
