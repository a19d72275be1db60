"""The results of a recording on disk while they come, so that a run that is killed at any moment can go on."""

import contextlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from videoswin_keras.atomic import PREFIX, replacing
from videoswin_keras.streaming.timeline import Result

SETTINGS = "settings.json"
_RESULTS, _STATE, _LOCK = ".journal.jsonl", ".state.npz", ".lock"


class Journal:
    """A folder with the results of one recording so far, and the state of the stream when they were last saved.

    Results are appended to a file. `save` makes them safe together with the state: what was appended later is dropped
    when the journal is opened again, and computed anew.

    Attributes:
        folder: Path.
        state: What the stream goes on from, as `StreamState.to_arrays` gave it; None at the start.
        is_finished: Whether the recording was done, and `close` removed the journal.
    """

    def __init__(self, folder: Path, state: dict[str, np.ndarray] | None, is_finished: bool):
        self.folder, self.state, self.is_finished = folder, state, is_finished

    @classmethod
    def open(cls, folder: str | Path, settings: dict[str, Any], resume: bool) -> Self:
        """Begins a journal, or goes on with one.

        Args:
            folder: Made if it is not there.
            settings: What the results depend on, as plain JSON values: kept in `settings.json`.
            resume: Whether to go on with the journal that is there, if there is one.

        Raises:
            FileExistsError: if there is one and `resume` is false, or the folder holds other files.
            BlockingIOError: if another process has it open.
            ValueError: if it was made with other settings, or is damaged.
            OSError: if the folder cannot be written to.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / SETTINGS
        if not resume:
            check_is_new(folder)
        settings = json.loads(json.dumps(settings))
        if not kept.exists() and (others := [path.name for path in folder.iterdir() if path.name[0] != "."]):
            raise FileExistsError(f"{folder} holds other files: {', '.join(sorted(others)[:3])}. Take another folder.")
        if kept.exists():
            _compare(_read_settings(kept), settings, kept)
        _lock(folder)
        for leftover in folder.glob(f"{PREFIX}*"):
            leftover.unlink()
        if kept.exists() and not (folder / _RESULTS).exists():
            (folder / _STATE).unlink(missing_ok=True)
            (folder / _LOCK).unlink(missing_ok=True)
            return cls(folder, None, is_finished=True)
        if not kept.exists():
            (folder / _STATE).unlink(missing_ok=True)
        state = _read_state(folder / _STATE) if (folder / _STATE).exists() else None
        length = 0 if state is None else state.pop("journal_bytes").item()
        with (folder / _RESULTS).open("ab") as file:
            if not 0 <= length <= file.tell():
                raise ValueError(f"{folder} is damaged: its journal is shorter than its state. Remove the folder.")
            file.truncate(length)
        if not kept.exists():  # after the journal: without it, settings stand for a recording that is finished
            with replacing(kept) as temporary:
                temporary.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return cls(folder, state, is_finished=False)

    def append(self, results: Iterable[Result]) -> None:
        """Adds results. They are safe after the next `save`."""
        with (self.folder / _RESULTS).open("ab") as file:
            for result in results:
                row = (result.start, result.end, result.probabilities)
                file.write(json.dumps(row).encode() + b"\n")

    def save(self, state: dict[str, np.ndarray]) -> None:
        """Makes all results safe, together with the state of the stream after the last of them."""
        with (self.folder / _RESULTS).open("ab") as file:
            os.fsync(file.fileno())
            length = np.array(file.tell(), "int64")
        with replacing(self.folder / _STATE) as temporary, temporary.open("wb") as file:
            np.savez(file, **state, journal_bytes=length)  # type: ignore[arg-type]

    def results(self) -> Iterator[Result]:
        """Yields the results so far, from the file."""
        with (self.folder / _RESULTS).open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    start, end, probabilities = json.loads(line)
                    result = Result(float(start), float(end), probabilities and tuple(map(float, probabilities)))
                except (ValueError, TypeError) as error:
                    where = f"Line {number} of {self.folder / _RESULTS}"
                    raise ValueError(f"{where} is damaged: {error}. Remove the folder to begin anew.") from error
                yield result

    def finish(self, write: Callable[[], None]) -> None:
        """Calls `write`, which makes the final files, and removes the journal. Killed on the way, it begins again."""
        write()
        (self.folder / _RESULTS).unlink()  # first: a state alone means nothing
        (self.folder / _STATE).unlink(missing_ok=True)
        (self.folder / _LOCK).unlink(missing_ok=True)
        self.is_finished = True

    def discard(self) -> None:
        """Leaves nothing of the journal, nor of its folder where nothing else is in it."""
        for name in (SETTINGS, _RESULTS, _STATE, _LOCK):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other files
            self.folder.rmdir()


def check_is_new(folder: Path) -> None:
    """Raises FileExistsError if there is a journal, or what one has become, in the folder."""
    if (folder / SETTINGS).exists():
        raise FileExistsError(f"{folder} holds results already. Go on with them (--resume), or take another folder.")


def _lock(folder: Path) -> None:
    """Holds the folder until this process ends, however it does. (Windows: only on trust.)"""
    if sys.platform == "win32":
        return
    import fcntl

    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(f"{folder} is in use: another process writes its results there.") from error


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Remove its folder to begin anew.") from error
    return settings if isinstance(settings, dict) else {}


def _compare(kept: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    different = [
        f"  {name}: {kept.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted({*kept, *settings})
        if kept.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError("\n".join([f"{path} is of a run with other settings:", *different, "Choose another --out."]))


def _read_state(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = dict(arrays)
        if state["journal_bytes"].dtype != "int64" or state["journal_bytes"].shape:
            raise ValueError("its length of the journal is no number")
        return state
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {error}. Remove its folder to begin anew.") from error
