"""`videoswin classify`: what is seen in video files."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from videoswin_keras.addresses import public_address
from videoswin_keras.atomic import replacing
from videoswin_keras.cli.inputs import add_input_rate, find_videos, read_classes
from videoswin_keras.text import printable, printable_lines

HELP = "Classify video files."
EXAMPLES = """examples:
  videoswin classify clip.mp4 --weights tiny_kinetics400
  videoswin classify folder_of_videos --weights my_model.keras --classes my_classes.txt --json results.json
  videoswin classify clip.mp4 --weights swin3d_t.pth --views 12 --top 3"""

NEEDS = ("av", "cv2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files, or folders that are searched for them")
    parser.add_argument(
        "--weights",
        default="tiny_kinetics400",
        help="a name of the zoo, a URL, a checkpoint of any known format, or a .keras model (default: %(default)s)",
    )
    parser.add_argument("--classes", help="text file of class names, one per line (default: the checkpoint's own)")
    parser.add_argument("--top", type=int, default=5, help="how many classes to print (default: %(default)s)")
    parser.add_argument("--json", help="also write all probabilities of all videos to this file")
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 12),
        default=1,
        help="1: one clip from the middle; 12: the published test, the mean over its clips and crops "
        "(3 on Something-Something v2) (default: %(default)s)",
    )
    parser.add_argument(
        "--interval", type=int, help="take every n-th frame of a clip (default: as the checkpoint was trained, else 2)"
    )
    add_input_rate(parser)
    parser.add_argument("--device", help="where to compute: cpu, gpu, gpu:1, … (default: the backend's choice)")


def run(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise ValueError(f"--top must be at least 1. Received: {options.top}.")
    output = Path(options.json) if options.json else None
    if output and not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write {output.name} to.")
    if output and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise PermissionError(f"--json {output} cannot be written: it is a folder, or in one that is write-protected.")
    videos = list(find_videos(options.videos))
    labels = read_classes(options.classes) if options.classes else None

    from tqdm import tqdm

    from videoswin_keras.backend import device
    from videoswin_keras.classification import VideoPipeline
    from videoswin_keras.prefetch import prefetched
    from videoswin_keras.video.protocols import Views

    results: list[dict] = []
    failed: list[dict] = []
    with device(options.device):
        pipeline = VideoPipeline.load(options.weights, labels, interval=options.interval)

        def decoded() -> Iterator[tuple[Path, Views | Exception]]:
            for video in videos:
                try:
                    yield video, pipeline.protocol.views(video, options.views, options.input_rate)
                except (ValueError, OSError) as error:
                    yield video, error

        print(f"Clips: {pipeline.protocol.describe(options.views)}", file=sys.stderr)
        try:
            bar = tqdm(
                prefetched(decoded()), total=len(videos), unit="video", disable=len(videos) < 2 or None, file=sys.stderr
            )
            for video, views in bar:
                if isinstance(views, Exception):
                    failed.append({"path": str(video), "error": str(views)})
                    tqdm.write(printable_lines(f"videoswin: skipped: {views}"), file=sys.stderr)
                    continue
                result = pipeline.classify_views(video, views, progress=True)
                results.append(result.to_dict())
                tqdm.write(printable(video), file=sys.stdout)
                for label, probability in result.top(options.top):
                    tqdm.write(f"  {100 * probability:6.2f} %  {printable(label)}", file=sys.stdout)
        finally:  # what there is, even after Ctrl-C
            if output:
                is_complete = len(results) + len(failed) == len(videos)
                content = {"weights": public_address(options.weights), "complete": is_complete}
                write_json({**content, "results": results, "failed": failed}, output)
    if not results:
        print("videoswin: error: none of the videos could be classified.", file=sys.stderr)
    return 1 if failed or not results else 0


def write_json(content: dict, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
