"""What several verbs take: video files and folders of them, lists of class names."""

import mimetypes
import re
from collections.abc import Iterator
from pathlib import Path

# What a folder is searched for, beside what Python knows as a video's ending.
VIDEO_SUFFIXES = {".3gp", ".flv", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}


def find_videos(paths: list[str]) -> Iterator[Path]:
    """Yields files as they are given, and the video files within folders, in the order of their names: 2 before 10."""
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted((file for file in path.rglob("*") if is_video_name(file)), key=natural)
            if not found:
                raise FileNotFoundError(f"There are no video files in the folder {path}.")
            yield from found
        else:
            yield path


def natural(path: Path) -> list[str | int]:
    """A key for sorting in which numbers count as numbers."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def is_video_name(path: Path) -> bool:
    if path.name.startswith("."):  # half-written files, and what macOS leaves on memory cards
        return False
    kind, _ = mimetypes.guess_type(path.name)
    return path.suffix.lower() in VIDEO_SUFFIXES or (kind or "").startswith("video/")


def read_classes(path: str) -> list[str]:
    """Reads class names, one per line; empty lines at the end do not count."""
    try:
        names = Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--classes must be a text file of one class name per line. Received: {path} ({error})."
        ) from error
    empty = [number for number, name in enumerate(names, start=1) if not name.strip()]
    if empty or not names:
        raise ValueError(f"{path} must hold one class name per line. Line {(empty or [1])[0]} is empty.")
    names = [name.strip() for name in names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path} must hold different names. It has {twice!r} twice.")
    return names
