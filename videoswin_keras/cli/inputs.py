"""What several verbs take: video files and folders of them, lists of class names."""

import argparse
import mimetypes
import os
import re
import stat
from pathlib import Path

from videoswin_keras.addresses import is_address, public_address

# What a folder is searched for, beside what Python knows as a video's ending.
VIDEO_SUFFIXES = {
    ".264", ".265", ".3g2", ".3gp", ".asf", ".avc", ".dav", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc",
    ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mpv", ".mts", ".mxf",
    ".nut", ".ogm", ".ogv", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
}  # fmt: skip
# What is no video and Python has no kind for: models and arrays, and what cameras and this program write beside videos
# (.lrv is a small copy of each).
_OTHER_SUFFIXES = {
    ".boris", ".edf", ".h5", ".hdf5", ".idx", ".jsonl", ".keras", ".lock", ".log", ".lrv", ".md", ".npy", ".npz",
    ".onnx", ".part", ".pdparams", ".pt", ".pth", ".safetensors", ".srt", ".thm", ".tmp", ".toml", ".vtt", ".yaml",
    ".yml",
}  # fmt: skip
# Folders of file systems, into which most people may not look.
_OF_THE_SYSTEM = {"lost+found", "System Volume Information", "$RECYCLE.BIN"}
# Chapters of an action camera: GH010042 and GX020042 are the first and the second of recording 42, GOPR0042 and
# GP010042 those of an older one.
_CHAPTER = re.compile(r"(?:(G[HXL]|GP)(\d\d)|GOPR)(\d{4})", re.IGNORECASE)


def add_input_rate(parser: argparse.ArgumentParser) -> None:
    """Adds --input-rate."""
    parser.add_argument(
        "--input-rate",
        type=float,
        metavar="RATE",
        help="frames per second of bare streams (.h264, .hevc, .mjpeg, …), which have no times (default: what the "
        "stream says, else FFmpeg's guess)",
    )


def find_videos(paths: list[str]) -> tuple[list[Path], list[tuple[Path, OSError]]]:
    """Returns files as they are given, and the video files within folders, in the order of their names: 2 before 10.

    Returns:
        The files; and what is passed over in folders, with the reason: folders that cannot be read, and what is called
        as a video is and is no file.

    Raises:
        FileNotFoundError: if there is no video in a folder, and nothing is passed over.
    """
    if "" in paths:
        raise ValueError("A path is empty. Is a variable of the shell not set?")
    if address := next((path for path in paths if is_address(path) and not Path(path).exists()), None):
        raise ValueError(f"{public_address(address)} is an address: download the video, and give its path.")
    videos: list[Path] = []
    passed_over: list[tuple[Path, OSError]] = []
    for path in map(Path, paths):
        if not path.is_dir():
            videos.append(path)
            continue
        found, others = _within(path)
        if not found and not others:
            raise FileNotFoundError(f"There are no video files in the folder {path}.")
        videos += sorted(found, key=natural)
        passed_over += sorted(others, key=lambda other: natural(other[0]))
    return videos, passed_over


def _within(folder: Path) -> tuple[list[Path], list[tuple[Path, OSError]]]:
    """Returns the video files in a folder and the folders in it, and what is passed over there."""
    found: list[Path] = []
    passed_over: list[tuple[Path, OSError]] = []

    def leave_out(error: OSError) -> None:
        passed_over.append((Path(error.filename), error))

    for parent, folders, files in os.walk(folder, onerror=leave_out):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _OF_THE_SYSTEM]
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                if _is_video(path):
                    _check_is_file(path)
                    found.append(path)
            except OSError as error:
                passed_over.append((path, error))
    used = {parent for path in found for parent in path.parents}  # a folder may be called as a video and hold some
    return found, [(path, error) for path, error in passed_over if path not in used]


def _check_is_file(path: Path) -> None:
    """Raises OSError if there is no file at a path, but a pipe, on which reading would wait for ever, or a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is a link to something that is not there.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise FileNotFoundError(f"{path} is {kind}, and no video file.")


def natural(path: Path) -> list[str | int]:
    """Returns a key for sorting in which numbers count as numbers, and chapters come after their recording.

    >>> sorted(map(Path, ["10.mp4", "2.mp4", "GH020007.MP4", "GH010008.MP4", "GH010007.MP4"]), key=natural)[2:]
    [PosixPath('GH010007.MP4'), PosixPath('GH020007.MP4'), PosixPath('GH010008.MP4')]
    """
    name = path.name
    if chapter := _CHAPTER.fullmatch(path.stem):
        camera, number, recording = chapter.groups()
        name = f"{(camera or 'GP').upper()}{recording}-{number or '00'}{path.suffix}"
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path.with_name(name)))]


def _is_video(path: Path) -> bool:
    """Whether a file in a folder is a video: by its name where that tells, else by its content."""
    suffix = path.suffix.lower()
    if path.name == "annotated.mp4" and (path.parent / "results.csv").exists():  # what `videoswin stream` writes
        return False
    if path.name.startswith(".") or suffix in _OTHER_SUFFIXES:  # half-written files, and what macOS leaves on cards
        return False
    kind, packing = mimetypes.guess_type(path.name)
    if suffix in VIDEO_SUFFIXES or ((kind or "").startswith("video/") and not packing):
        return True
    if kind or packing or not path.is_file():
        return False
    from videoswin_keras.video.reading import is_video

    return is_video(path)


def read_sources(path: str) -> list[str]:
    """Reads video files and addresses, one per line; empty lines and those that begin with "#" are passed over."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--source-file must be a text file of one address or path per line. Received: {path} ({error})."
        ) from error
    return [line for line in lines if line and not line.startswith("#")]


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
