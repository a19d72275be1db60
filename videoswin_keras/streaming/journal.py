"""The results of a recording on disk while they come, so that a run that is killed at any moment can go on."""

import contextlib
import hashlib
import json
import math
import operator
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from videoswin_keras.atomic import PREFIX, full_disk_explained, make_own_folder, open_own, replacing
from videoswin_keras.checkpoints.claims import read_npz
from videoswin_keras.streaming.about import DAMAGED, OVERLAP, FileSpan, Problem
from videoswin_keras.streaming.timeline import LONGEST, Result
from videoswin_keras.text import writable_json

SETTINGS = "settings.json"
_RESULTS, _STATE, _LOCK = ".journal.jsonl", ".state.npz", ".lock"
# What settings.json says beside the settings, which may change while a recording is read: where it stands, what the
# records are chained to, the files as they were last seen, and what was found out about them.
_CHANGING = ("is_finished", "chain", "files", "source", "longest_hold", "outcome", "checksum")


@dataclass(frozen=True)
class Reopened:
    """A file has grown: what was found out about it before does not hold.

    Attributes:
        file: Its name.
    """

    file: str


Record = Result | FileSpan | Problem | Reopened


class Journal:
    """A folder with the results of one recording so far, and the state of the stream when they were last saved.

    Records are appended to a file. `save` makes them safe together with the state: what was appended later is dropped
    when the journal is opened again, and computed anew. Each record carries a checksum of itself and the one before
    it, the first one of the settings, and the state carries one of itself and the last record: what is damaged, or of
    another recording, is refused.

    Attributes:
        folder: Path.
        state: What the stream goes on from, as `StreamState.to_arrays` gave it; None at the start.
        kept: What `settings.json` says.
    """

    def __init__(self, folder: Path, kept: dict[str, Any], state: dict[str, np.ndarray] | None, checksum: str):
        self.folder, self.kept, self.state = folder, kept, state
        self._checksum = checksum  # of the last record
        self._held: int | None = None  # the descriptor of the lock

    @classmethod
    def open(cls, folder: str | Path, settings: dict[str, Any], resume: bool) -> Self:
        """Begins a journal, or goes on with one.

        Args:
            folder: Made if it is not there.
            settings: What the results depend on, as plain JSON values: kept in `settings.json`. Under "files", what
                tells the files of the recording from others; under "multi_label", true if its results are so.
            resume: Whether to go on with the journal that is there, if there is one.

        Raises:
            FileExistsError: if there is one and `resume` is false, or the folder holds other files.
            BlockingIOError: if another process has it open.
            ValueError: if it was made with other settings, or is damaged.
            OSError: if the folder cannot be written to.
        """
        folder = Path(folder)
        make_own_folder(folder)
        if not resume:
            check_is_new(folder)
        settings = json.loads(writable_json(settings))
        kept = read_settings(folder)
        if kept is None and (others := [path.name for path in folder.iterdir() if path.name[0] != "."]):
            raise _holds_others(folder, others)
        if kept is not None:
            _compare(kept, settings, folder / SETTINGS)
        held = _lock(folder)
        for leftover in folder.glob(f"{PREFIX}*"):
            _remove(leftover)
        if kept is None:
            journal = cls._begin(folder, settings)
            journal._held = held
            return journal
        if not os.path.lexists(folder / _RESULTS):
            raise _damaged(folder, f"its journal {_RESULTS} is missing")
        state, length, checksum = None, 0, kept["chain"]
        if os.path.lexists(folder / _STATE):
            state, length, checksum = _read_state(folder / _STATE)
        _unlink_others(folder / _RESULTS)
        with open_own(folder / _RESULTS, "rb+") as file:
            if state is None and os.fstat(file.fileno()).st_size:
                raise _damaged(folder, f"its state {_STATE} is missing")
            if not 0 <= length <= file.seek(0, os.SEEK_END):
                raise _damaged(folder, "its journal is shorter than its state says")
            file.truncate(length)
        journal = cls(folder, kept, state, checksum)
        journal._held = held
        checksums = [kept["chain"], *(checksum for checksum, _ in journal._lines())]
        if checksums[-1] != checksum:
            raise _damaged(folder, "its journal and its state are not of one recording")
        return journal

    @classmethod
    def _begin(cls, folder: Path, settings: dict[str, Any]) -> Self:
        chain = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        for name in (_STATE, _RESULTS):  # of a run that was killed before it had begun
            (folder / name).unlink(missing_ok=True)
        open_own(folder / _RESULTS, "xb").close()
        journal = cls(folder, settings | {"chain": chain, "is_finished": False}, None, chain)
        journal._write_settings()
        return journal

    @property
    def is_finished(self) -> bool:
        """Whether the final files are there."""
        return bool(self.kept["is_finished"])

    @contextlib.contextmanager
    def as_told(self) -> Iterator[None]:
        """Says that the folder is damaged where something goes wrong within that is made of its content."""
        try:
            yield
        except _Damaged:
            raise
        except _NONSENSE as error:
            raise _damaged(self.folder, f"its parts do not fit together ({error})") from error

    def append(self, records: Iterable[Record]) -> None:
        """Adds results, and what was found out about the files. They are safe after the next `save`."""
        path = self.folder / _RESULTS
        with full_disk_explained(path), open_own(path, "ab") as file:
            for record in records:
                line = _encoded(record)
                self._checksum = _chained(self._checksum, line)
                file.write(self._checksum.encode() + b" " + line + b"\n")

    def save(self, state: dict[str, np.ndarray]) -> None:
        """Makes all records safe, together with the state of the stream after the last of them."""
        with open_own(self.folder / _RESULTS, "ab") as file:
            os.fsync(file.fileno())
            length = np.array(file.tell(), "int64")
        content = {**state, "journal_bytes": length, "checksum": np.array(self._checksum)}
        with replacing(self.folder / _STATE) as temporary, temporary.open("wb") as file:
            np.savez(file, **content, own_checksum=np.array(_checksum_of(content)))  # type: ignore[arg-type]

    def records(self) -> Iterator[Record]:
        """Yields all records so far, from the file."""
        multi_label, num_classes = self.kept.get("multi_label", False), len(self.kept.get("labels", ()))
        end = 0.0
        for number, (_, line) in enumerate(self._lines(), start=1):
            try:
                record = _decoded(line, multi_label)
                if isinstance(record, Result):
                    _check_result(record, end, num_classes)
                    end = record.end
            except _NONSENSE as error:
                raise _damaged(self.folder, f"line {number} of its journal is none: {error}") from error
            yield record

    def results(self) -> Iterator[Result]:
        """Yields the results so far, from the file."""
        return (record for record in self.records() if isinstance(record, Result))

    def events(self) -> list[FileSpan | Problem]:
        """Returns what was found out about the files."""
        events: list[FileSpan | Problem] = []
        for record in self.records():
            if isinstance(record, Reopened):
                others = [event for event in events if event.file != record.file]
                own = [event for event in events if event.file == record.file]
                # One that was damaged is read again from its start: its end may have been half written.
                is_damaged = any(isinstance(event, Problem) and event.kind == DAMAGED for event in own)
                events = others if is_damaged else [event for event in events if event in others or _holds_still(event)]
            elif not isinstance(record, Result):
                events.append(record)
        return events

    def finish(self, write: Callable[[], None], outcome: dict[str, Any]) -> None:
        """Calls `write`, which makes the final files, and marks the recording as finished. Killed, it begins again.

        Journal and state stay: a recording that has grown since can be gone on with.

        Args:
            write: Function.
            outcome: What settings.json is to say about how it went.
        """
        write()
        written = sorted(path.name for path in self.folder.glob("[!.]*") if path.name != SETTINGS)
        self.kept |= {"is_finished": True, "outcome": {**outcome, "written": written}}
        self._write_settings()
        self._release()

    def reopen(self, changed: dict[str, Any], grown: Iterable[str]) -> None:
        """Takes a recording up again that may have been finished.

        Args:
            changed: What settings.json is to say now of what may change.
            grown: Names of the files that have grown.
        """
        self.append(map(Reopened, grown))
        if self.state is not None:
            self.save(self.state)
        self.kept |= {"is_finished": False, **changed}
        self._write_settings()

    def discard(self) -> None:
        """Leaves nothing of the journal, nor of its folder where nothing else is in it."""
        for name in (SETTINGS, _RESULTS, _STATE):
            (self.folder / name).unlink(missing_ok=True)
        self._release()
        with contextlib.suppress(OSError):  # it holds other files
            self.folder.rmdir()

    def _release(self) -> None:
        (self.folder / _LOCK).unlink(missing_ok=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """Yields checksum and content of each line, after comparing them."""
        checksum = self.kept["chain"]
        with open_own(self.folder / _RESULTS, "rb") as file:
            for number, whole in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                said, _, line = whole.rstrip(b"\n").partition(b" ")
                checksum = _chained(checksum, line)
                if said != checksum.encode():
                    raise _damaged(self.folder, f"line {number} of its journal has been changed")
                yield checksum, line

    def _write_settings(self) -> None:
        self.kept = json.loads(writable_json(self.kept))
        self.kept["checksum"] = _checksum_of_settings(self.kept)
        with replacing(self.folder / SETTINGS) as temporary:
            temporary.write_text(writable_json(self.kept, indent=1) + "\n", encoding="utf-8")


def _holds_still(event: FileSpan | Problem) -> bool:
    """Whether what was found out about a file holds after it has grown: where it begins."""
    return event.kind == OVERLAP if isinstance(event, Problem) else math.isinf(event.end)


_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (FileSpan, Problem, Reopened)}
_DIGITS = 16  # of a checksum: chance is what it is against
_LONGEST_LINE = 2**24  # bytes of a record


def _chained(before: str, line: bytes) -> str:
    return hashlib.sha256(before.encode() + line).hexdigest()[:_DIGITS]


def _encoded(record: Record) -> bytes:
    if isinstance(record, Result):
        return json.dumps((record.start, record.end, record.probabilities)).encode()
    return json.dumps({"record": type(record).__name__, **asdict(record)}).encode()


# What content that nobody has checked can lead to.
_NONSENSE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


def _json(text: str | bytes) -> Any:
    """Returns what JSON says, if its numbers are ones; of a span that is open the end is infinite."""

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value) and word != "Infinity":
            raise ValueError(f"{word} is no number")
        return value

    return json.loads(text, parse_float=number, parse_constant=number)


def _decoded(line: bytes, multi_label: bool) -> Record:
    content = _json(line)
    if isinstance(content, dict):
        record: Record = _KINDS[content.pop("record")](**content)
        for name, value in asdict(record).items():
            is_open = name in ("end", "until") and value == math.inf
            is_time = name in ("start", "end", "until", "at")
            if not (is_open or _is_time(value) if is_time else isinstance(value, str)):
                raise ValueError(f"{name} is {value!r}")
        return record
    start, end, probabilities = content
    scores = probabilities and tuple(map(float, probabilities))
    return Result(float(start), float(end), scores, multi_label=multi_label)


def _check_result(result: Result, end: float, num_classes: int) -> None:
    """Raises ValueError unless a result follows the one before it, which ends at `end`, and is one of this model."""
    is_next = abs(result.start - end) < 0.001 and result.start < result.end and _is_time(result.end)
    scores = result.probabilities
    is_of_model = scores is None or (len(scores) == (num_classes or len(scores)) and all(0 <= p <= 1 for p in scores))
    if not is_next or not is_of_model:
        raise ValueError(f"from {result.start} to {result.end} s after {end} s, with the probabilities {scores}")


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= LONGEST


def _checksum_of(arrays: dict[str, np.ndarray]) -> str:
    checksum = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        checksum.update(f"{name} {array.dtype} {array.shape} ".encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()[:_DIGITS]


def _checksum_of_settings(kept: dict[str, Any]) -> str:
    others = {name: value for name, value in kept.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:_DIGITS]


class _Damaged(ValueError):
    """A folder of results that cannot be gone on with."""


def _damaged(folder: Path, how: str) -> _Damaged:
    return _Damaged(f"{folder} is damaged: {how[:300]}. Remove the folder to begin anew.")


def check_is_new(folder: Path) -> None:
    """Sees to it that a folder can be begun in: it is not there, or this user's own and without any file.

    Raises:
        FileExistsError: if there is a journal, or what one has become, or any other file in it.
        PermissionError: if it is a link, or of another user.
    """
    if not os.path.lexists(folder):
        return
    make_own_folder(folder)
    if any(os.path.lexists(folder / name) for name in (SETTINGS, _RESULTS, _STATE, _LOCK)):
        raise FileExistsError(f"{folder} holds results already. Go on with them (--resume), or take another folder.")
    if files := [path.name for path in folder.iterdir() if path.is_symlink() or not path.is_dir()]:
        raise _holds_others(folder, files)


def _holds_others(folder: Path, names: list[str]) -> FileExistsError:
    return FileExistsError(f"{folder} holds other files: {', '.join(sorted(names)[:3])}. Take another folder.")


def _unlink_others(path: Path) -> None:
    """Makes a file of its own of one that has a second name, as in a copy of hard links: that one stays as it is."""
    with open_own(path, "rb") as file:
        if os.fstat(file.fileno()).st_nlink > 1:
            with replacing(path) as temporary, temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy)


def _remove(leftover: Path) -> None:
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink()


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Returns what `settings.json` says in a folder; None if there is none.

    Raises:
        ValueError: if it is damaged, or of another version of this library.
    """
    path = folder / SETTINGS
    if not os.path.lexists(path):
        return None
    try:
        with open_own(path, "r", encoding="utf-8") as file:
            kept = _json(file.read(_LARGEST_SETTINGS))
    except PermissionError:
        raise
    except (*_NONSENSE, OSError) as error:
        raise _damaged(folder, f"{SETTINGS} cannot be read ({error})") from error
    if not isinstance(kept, dict) or kept.get("checksum") != _checksum_of_settings(kept):
        raise _damaged(folder, f"{SETTINGS} has been changed, or is of another version")
    try:
        _check_settings(kept)
    except _NONSENSE as error:
        raise _damaged(folder, f"{SETTINGS} says what it never does ({error!r})") from error
    return kept


_LARGEST_SETTINGS = 2**26  # characters: a recording of tens of thousands of files


def _check_settings(kept: dict[str, Any]) -> None:
    """Raises an error unless `settings.json` has what a run goes on from, each of its kind."""
    kinds: list[tuple[Any, type]] = [(kept["chain"], str), (kept["is_finished"], bool), (kept.get("outcome", {}), dict)]
    kinds += [(name, str) for name in kept.get("labels", ())]
    kinds += [(name, str) for name in kept.get("outcome", {}).get("written", ())]
    for file in kept.get("files", ()):
        kinds += [(file["file"], str), (file["sha256"], str), (file["bytes"], int), (file["start"] or "", str)]
    if wrong := [value for value, kind in kinds if not isinstance(value, kind)]:
        raise ValueError(f"{wrong[0]!r:.60}")
    if "longest_hold" in kept and not 0 < kept["longest_hold"] <= LONGEST:
        raise ValueError(f"longest_hold is {kept['longest_hold']!r:.60}")


_PERIOD = "%Y-%m-%d_%H%M%S%z"  # with the offset: an hour may come twice


def period_folder(folder: Path, moment: datetime) -> Path:
    """Returns the folder of the results from a moment on, in the folder of a camera."""
    return folder / f"{moment:{_PERIOD}}"


def periods(folder: Path) -> list[Path]:
    """Returns the folders of a camera that have results, in the order of time."""
    found = {}
    for path in folder.glob(f"*/{SETTINGS}"):
        with contextlib.suppress(ValueError):  # somebody's own folder
            found[datetime.strptime(path.parent.name, _PERIOD)] = path.parent
    return [found[moment] for moment in sorted(found)]


def _lock(folder: Path) -> int | None:
    """Locks the folder until the returned descriptor is closed, or this process ends. (Not on Windows.)"""
    if sys.platform == "win32":
        return None
    import fcntl

    with contextlib.suppress(FileExistsError):
        open_own(folder / _LOCK, "xb").close()
    with open_own(folder / _LOCK, "rb+") as file:
        with contextlib.suppress(OSError):  # a disk without such permissions
            os.fchmod(file.fileno(), 0o600)  # or whoever can read it could hold it
        descriptor = os.dup(file.fileno())
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BlockingIOError(f"{folder} is in use: another process writes its results there.") from error
    return descriptor


def _compare(kept: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    different = [
        f"  {name}: {kept.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted({*kept, *settings} - {*_CHANGING})
        if kept.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError("\n".join([f"{path} is of a run with other settings:", *different, "Choose another --out."]))


def _read_state(path: Path) -> tuple[dict[str, np.ndarray], int, str]:
    """Returns the state, how many bytes of the journal belong to it, and the checksum of the last of their records."""
    try:
        with open_own(path, "rb") as file:
            state = read_npz(file)
        own = state.pop("own_checksum")
        if own.item() != _checksum_of(state):
            raise ValueError("its checksum is another")
        return state, operator.index(state.pop("journal_bytes")[()]), str(state.pop("checksum")[()])
    except PermissionError:
        raise
    except Exception as error:  # a changed byte of an archive can raise anything
        raise _damaged(path.parent, f"its state {path.name} cannot be read ({error})") from error
