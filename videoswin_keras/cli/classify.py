"""`videoswin classify`: what is seen in video files."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from videoswin_keras.addresses import public_address
from videoswin_keras.atomic import full_disk_explained, open_own, replacing
from videoswin_keras.cli import terminal
from videoswin_keras.cli.inputs import add_input_rate, find_videos, read_classes
from videoswin_keras.text import file_name, printable, writable_json

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
    parser.add_argument(
        "--json",
        metavar="FILE.json",
        help="also write all probabilities of all videos to this file; until it is there, FILE_so_far.jsonl has those "
        "of the videos that are done, one on a line, also after the command was killed",
    )
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
    if output:
        _check_output(output)
    videos, passed_over = find_videos(options.videos)
    labels = read_classes(options.classes) if options.classes else None

    from videoswin_keras.backend import device
    from videoswin_keras.classification import VideoPipeline
    from videoswin_keras.prefetch import prefetched
    from videoswin_keras.progress import Bar
    from videoswin_keras.video.protocols import Views

    with device(options.device):
        pipeline = VideoPipeline.load(options.weights, labels, interval=options.interval)

        def decoded() -> Iterator[tuple[Path, Views | Exception]]:
            yield from passed_over
            for video in videos:
                try:
                    yield video, pipeline.protocol.views(video, options.views, options.input_rate)
                except (ValueError, OSError) as error:
                    yield video, error

        print(f"Clips: {pipeline.protocol.describe(options.views)}", file=sys.stderr)
        count = len(videos) + len(passed_over)
        with _Results(output, public_address(options.weights), count) as results:
            for video, views in Bar(prefetched(decoded()), total=count, unit="video", disable=count < 2 or None):
                if isinstance(views, Exception):
                    results.fail(video, views)
                    Bar.write(f"videoswin: skipped: {views}", file=sys.stderr)
                    continue
                result = pipeline.classify_views(video, views, progress=True)
                results.add(result.to_dict())
                Bar.write(printable(video), file=sys.stdout)
                for label, probability in result.top(options.top):
                    Bar.write(f"  {100 * probability:6.2f} %  {printable(label)}", file=sys.stdout)
                sys.stdout.flush()
                if not output and not terminal.has_reader():
                    return 1  # `… | head`
    if not results.num_done:
        print("videoswin: error: none of the videos could be classified.", file=sys.stderr)
    return 1 if results.failed or not results.num_done else 0


def _check_output(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    if (path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"--json {path} cannot be written: it is a folder or a device, or in a folder that is write-protected."
        )
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                raise FileExistsError(f"--json {path} is there, and is no JSON that could be replaced.")
    if os.path.lexists(_so_far(path)):
        raise FileExistsError(
            f"{_so_far(path)} is there: results of a run that was killed, perhaps. Move it away, or remove it."
        )


def _so_far(path: Path) -> Path:
    return path.with_name(file_name(path.stem, "_so_far.jsonl"))


class _Results:
    """What is known about the videos so far; at the end of its `with` block, whatever ends it, the file of --json.

    Args:
        path: Of that file; or None for none. Beside it, as NAME_so_far.jsonl, is one JSON object on a line for each
            video while the block runs, or after this process was killed.
        weights: What the file says about them.
        count: Of videos that there are to do.

    Attributes:
        num_done: How many videos have a result.
        failed: What is known about the others.
    """

    def __init__(self, path: Path | None, weights: str, count: int):
        self.num_done = 0
        self.failed: list[dict[str, Any]] = []
        self._path, self._weights, self._count = path, weights, count
        self._places: list[int] = []  # where in the file of lines the results begin

    def __enter__(self) -> Self:
        if self._path:
            self._so_far = _so_far(self._path)
            self._file = open_own(self._so_far, "xb+")
        return self

    def add(self, result: dict[str, Any]) -> None:
        if self._path:
            self._places.append(self._append(result))
        self.num_done += 1

    def fail(self, path: Path, error: Exception) -> None:
        entry = {"path": str(path), "error": str(error)}
        if self._path:
            self._append(entry)
        self.failed.append(entry)

    def _append(self, entry: dict[str, Any]) -> int:
        """Adds a line to the file of lines, and returns where it begins."""
        place = self._file.tell()
        with full_disk_explained(self._so_far):
            self._file.write(writable_json(entry).encode() + b"\n")
            self._file.flush()
        return place

    def __exit__(self, *error: object) -> None:
        if self._path:
            with self._file:
                try:
                    self._put_together(self._path)
                except OSError as error:
                    raise OSError(
                        f"{self._path} cannot be written ({error}). Its content is in {self._so_far}."
                    ) from error
            self._so_far.unlink()

    def _put_together(self, path: Path) -> None:
        """Writes the file from the lines beside it, one at a time: there may be more of them than fit into memory."""
        is_complete = self.num_done + len(self.failed) == self._count
        head = {"weights": self._weights, "complete": is_complete, "failed": self.failed}
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(writable_json(head, indent=1).removesuffix("\n}").encode())
            file.write(b',\n "results": [')
            for number, place in enumerate(self._places):
                self._file.seek(place)
                file.write((b",\n  " if number else b"\n  ") + self._file.readline().rstrip())
            file.write(b"\n ]\n}\n")
