"""What tells the files of one recording from those of another, whatever they are called."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoswin_keras.streaming.recording import Recording

_SAMPLE = 65_536  # bytes


def fingerprint(path: Path, size: int | None = None) -> dict[str, Any]:
    """Returns what tells a file from others: its size, and a checksum of some bytes in the middle.

    The middle is not rewritten when a file grows, or when a recorder closes it, as its beginning is.

    Args:
        path: The file; one that is not there has the size 0.
        size: Integer. How many bytes of it count; default: all.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size if size is None else size
            file.seek(size // 2)
            sample = file.read(min(_SAMPLE, size - size // 2))
    except OSError:
        size, sample = 0, b""
    return {"bytes": size, "sha256": hashlib.sha256(sample).hexdigest()[:16]}


def fingerprints(recording: Recording) -> list[dict[str, Any]]:
    """Returns what tells each file of a recording from others, with its name and its start."""
    return [
        {"file": name, "start": _start(recording, number), **fingerprint(path)}
        for number, (path, name) in enumerate(zip(recording.paths, recording.names, strict=True))
    ]


def grown_files(kept: Sequence[dict[str, Any]], recording: Recording) -> list[str]:
    """Returns the names of the files that have grown or come after the others since some were kept.

    Raises:
        ValueError: if the files are others, in another order, begin at other times, or have been changed otherwise.
    """
    paths, names = recording.paths, recording.names
    grown = list(names[len(kept) :])
    for number, earlier in enumerate(kept):
        name = names[number] if number < len(names) else None
        if name != earlier["file"]:
            raise ValueError(f"The files are others: {earlier['file']} there, {name or 'nothing'} now.")
        if (start := _start(recording, number)) != earlier["start"]:
            raise ValueError(f"{name} begins at another time: {earlier['start']} there, {start} now.")
        now = fingerprint(paths[number], earlier["bytes"])
        size = paths[number].stat().st_size if paths[number].exists() else 0
        if size < earlier["bytes"] or now["sha256"] != earlier["sha256"]:
            raise ValueError(f"{name} is another file than it was ({earlier['bytes']} bytes there, {size} now).")
        if size > earlier["bytes"]:
            if number < len(kept) - 1:
                raise ValueError(f"{name} has grown since, and the file after it has been read already.")
            grown.insert(0, names[number])
    return grown


def _start(recording: Recording, number: int) -> str | None:
    start = recording.starts[number]
    return None if start is None else start.moment.isoformat()
