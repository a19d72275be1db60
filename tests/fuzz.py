"""Damages small honest files at random, and has the library read them: `make fuzz`, `make fuzz FUZZ=--help`.

A file may be refused by an error that its reader documents. It must not lead to another one, end the process, take long
or much memory, run anything, or write anywhere but where it lies. Each batch is read in a process of its own. What is
found is kept, with the command that reads it again.

A kind of file is one entry in `KINDS`: a function that writes honest ones to a folder, a function that reads the
folder, and the errors that it may raise.
"""

import argparse
import contextlib
import functools
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sources

from videoswin_keras import CheckpointError, RecurrentVideoSwin, VideoSwinBackbone, VideoSwinClassifier, convert
from videoswin_keras.checkpoints.claims import read_npz
from videoswin_keras.checkpoints.load import open_checkpoint
from videoswin_keras.classification import load_classifier
from videoswin_keras.streaming import clocks, report, writers
from videoswin_keras.streaming import journal as journals
from videoswin_keras.streaming.about import DAMAGED, About, FileSpan, Problem
from videoswin_keras.streaming.journal import Journal
from videoswin_keras.streaming.smoothing import smooth
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.streaming.timeline import Result, timeline_of
from videoswin_keras.text import printable, spreadsheet_safe
from videoswin_keras.video.decode import VideoError, iter_frames, probe

HERE = Path(__file__).parent
BATCH = 25  # files a process
SECONDS = 20  # for one file
MEGABYTES = 400  # that a small file may take
ADDRESSES = 4 * 2**30  # bytes beside those at the start, so that no file takes all of the machine
ARCHITECTURE = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": (2, 3, 3)}


@dataclass(frozen=True)
class Kind:
    """A kind of file: what writes honest ones, what reads them, and the errors by which it may refuse one.

    `sign` makes the checksums in damaged ones right again, as a stranger can: they are against chance.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    sign: Callable[[Path], Any] | None = None


# --- kinds ------------------------------------------------------------------------------------------------------


def small_model(memory: bool = False) -> Any:
    model = VideoSwinClassifier(VideoSwinBackbone((None, None, None, 3), **ARCHITECTURE), 3, labels=("a", "b", "c"))
    return RecurrentVideoSwin(model, stages=(2,), num_tokens=2, memory_length=3) if memory else model


def state_of_small_model(folder: Path) -> Any:
    small_model().save_weights(folder / "model.weights.h5")
    state = open_checkpoint(folder / "model.weights.h5").state
    (folder / "model.weights.h5").unlink()
    return state


def checkpoint(write: Callable[[Any, Path], None], name: str) -> Kind:
    def read(folder: Path) -> None:
        convert(folder / name, folder / "out.weights.h5", window_size=(2, 3, 3))

    return Kind(lambda folder: write(state_of_small_model(folder), folder / name), read, (CheckpointError,))


def model_file(memory: bool, name: str) -> Kind:
    def write(folder: Path) -> None:
        model = small_model(memory)
        (model.save if name.endswith(".keras") else model.save_weights)(folder / name)

    return Kind(write, lambda folder: load_classifier(folder / name), (ValueError,))


@functools.cache
def small_stream() -> VideoStream:
    return VideoStream(small_model(memory=True), fps=4, clip_frames=4, stride=2, short_side=12, crop=12)


def frames(first: int, last: int) -> Iterator[tuple[float, np.ndarray]]:
    return ((number / 4, np.full((12, 12, 3), number, "uint8")) for number in range(first, last))


def write_state(folder: Path) -> None:
    state = small_stream().start()
    for _ in small_stream().batches(frames(0, 9), state):
        pass
    np.savez(folder / "state.npz", **state.to_arrays())


def read_state(folder: Path) -> None:
    state = small_stream().restore(read_npz(folder / "state.npz"))
    for _ in small_stream().batches(frames(9, 12), state):
        pass
    small_stream().finish(state)


FILE = {"file": "a.mp4", "start": None, "bytes": 9, "sha256": "0123"}
SETTINGS = {"fps": 4.0, "labels": ["a", "b"], "longest_hold": 2.0, "files": [FILE]}


def write_journal(folder: Path) -> None:
    journal = Journal.open(folder, SETTINGS, resume=False)
    journal.append([FileSpan("a.mp4", 0.0, math.inf, math.inf, "its name")])
    journal.append([Result(float(index), index + 1.0, (0.25, 0.75)) for index in range(20)])
    journal.append([Problem("a.mp4", DAMAGED, "is damaged", 3.0), FileSpan("a.mp4", 0.0, 20.0, 20.0, "its name")])
    journal.save({"position": np.array([7, 3])})
    journal.append([Result(20.0, 21.0, None)])
    journal.finish(lambda: None, {"seconds": 21.0})


def sign_journal(folder: Path) -> None:
    with contextlib.suppress(Exception):  # of what is no journal any more
        kept = json.loads((folder / "settings.json").read_bytes())
        kept["checksum"] = journals._checksum_of_settings(kept)
        (folder / "settings.json").write_text(json.dumps(kept))
        checksum, signed = kept["chain"], b""
        for line in (folder / ".journal.jsonl").read_bytes().splitlines():
            content = line.partition(b" ")[2]
            checksum = journals._chained(checksum, content)
            signed += checksum.encode() + b" " + content + b"\n"
        (folder / ".journal.jsonl").write_bytes(signed)
        state = read_npz(folder / ".state.npz")
        del state["own_checksum"]
        state |= {"checksum": np.array(checksum), "journal_bytes": np.array(len(signed))}
        np.savez(folder / ".state.npz", **state, own_checksum=np.array(journals._checksum_of(state)))


def read_journal(folder: Path) -> None:
    journal = Journal.open(folder, SETTINGS, resume=True)
    timeline = timeline_of(smooth(journal.results(), 3))
    about = About("a", ("a", "b"), "a.mp4", 4.0, files=tuple(e for e in journal.events() if isinstance(e, FileSpan)))
    writers.write_csv(folder / "results.csv", smooth(journal.results(), 3), about)
    writers.write_webvtt(folder, timeline, about)
    report.Density(journal.results(), timeline.duration, 2)


def video(name: str) -> Kind:
    def read(folder: Path) -> None:
        probe(folder / name)
        for _ in zip(range(50), iter_frames(folder / name), strict=False):
            pass

    def write(folder: Path) -> None:
        shutil.copy(HERE / "data" / "video" / name, folder / name)

    return Kind(write, read, (VideoError,))


def write_name(folder: Path) -> None:
    (folder / "name").write_bytes("cam1_20261130_101500+0100 – Nächte (3).mp4".encode())


def read_name(folder: Path) -> None:
    name = os.fsdecode((folder / "name").read_bytes())
    clocks.in_name(name, clocks.timezone.utc)
    for text in (printable(name), spreadsheet_safe(name)):
        text.encode()
        if not text.isprintable() and not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*", text):
            raise AssertionError(f"{text!r} is not safe to show")


KINDS: dict[str, Kind] = {
    "keras": model_file(False, "model.keras"),
    "keras_memory": model_file(True, "model.keras"),
    "weights": model_file(False, "model.weights.h5"),
    "pth": checkpoint(sources.write_torch, "x.pth"),
    "pth_legacy": checkpoint(sources.write_torch_legacy, "x.pth"),
    "pdparams": checkpoint(
        lambda state, path: sources.write_pdparams(sources.as_paddlevideo(state), path), "x.pdparams"
    ),
    "safetensors": checkpoint(sources.write_safetensors, "x.safetensors"),
    "state": Kind(write_state, read_state, (ValueError,)),
    "journal": Kind(write_journal, read_journal, (ValueError, OSError), sign_journal),
    "name": Kind(write_name, read_name, ()),
    **{
        f"video_{name}": video(name)
        for name in ("packed.avi", "fields.mkv", "fields.mts", "exif_mjpeg.avi", "plain.tiff")
    },
}


# --- damage -----------------------------------------------------------------------------------------------------

NUMBERS = [0, 1, -1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]
VALUES = [
    None, True, -1, 0, 3, 10**9, 10**30, 0.5, 1e308, float("nan"), "", "a", "x" * 10**5, [], [1, [2]], {}, {"a": None},
    ["a"] * 1000, {"class_name": "Lambda", "config": {}, "module": "keras.layers", "registered_name": None},
    {"class_name": "function", "config": "system", "module": "os", "registered_name": "system"},
    {"class_name": "__lambda__", "config": {"value": ["4wAA", None, None]}},
    {"class_name": "__tensor__", "config": {"value": [1], "dtype": "V999"}},
    {"class_name": "Dense", "config": {"units": 10**9}, "module": "keras.layers", "registered_name": None},
]  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the content of a file, changed at random; what is within an archive or JSON is changed as such."""
    if content.startswith(b"PK") and rng.random() < 0.7:
        return damaged_zip(content, rng)
    if content.lstrip().startswith(b"{") and rng.random() < 0.7:
        return damaged_json(content, rng)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        content = rng.choice(CHANGES)(content, rng, rng.randrange(len(content) + 1))
    return content


def flipped(content: bytes, rng: random.Random, at: int) -> bytes:
    return content[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random, at: int) -> bytes:
    return content[:at]


def removed(content: bytes, rng: random.Random, at: int) -> bytes:
    return content[:at] + content[at + rng.choice([1, 4, 64, 4096]) :]


def spliced(content: bytes, rng: random.Random, at: int) -> bytes:
    start = rng.randrange(len(content) + 1)
    part = content[start : start + rng.choice([1, 4, 64, 4096])]
    return content[:at] + part + content[at + rng.choice([0, len(part)]) :]


def numbered(content: bytes, rng: random.Random, at: int) -> bytes:
    at = rng.choice([at, at % 512, at % 64])  # headers are where most numbers are
    size, number = rng.choice([1, 2, 4, 8]), rng.choice(NUMBERS)
    encoded = (number % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    return content[:at] + encoded + content[at + size :]


def reworded(content: bytes, rng: random.Random, at: int) -> bytes:
    """Another number in the place of one that is written in digits."""
    found = re.compile(rb"\d+").search(content, at)
    return content if found is None else content[: found.start()] + b"%d" % rng.choice(NUMBERS) + content[found.end() :]


CHANGES = [flipped, flipped, cut, removed, spliced, numbered, numbered, reworded]


def damaged_zip(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, other = rng.choice([*members]), rng.choice([*members])
    change = rng.randrange(10)
    if change < 6:
        members[name] = damaged(members[name], rng)
    elif change == 6:
        members[name], members[other] = members[other], members[name]
    elif change == 7:
        del members[name]
    elif change == 8:
        members[name] += rng.choice([b" ", b"\0", b"["]) * 2**25
    else:
        members[other + rng.choice(["x", "/../../../out", "\x00"])] = members.pop(name)
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", rng.choice([0, 0, zipfile.ZIP_DEFLATED])) as archive:
        warnings.simplefilter("ignore")
        for name, value in members.items():
            archive.writestr(name, value)
    content = file.getvalue()
    if rng.random() < 0.2:  # numbers in the directory at the end
        at = content.rindex(b"PK\x01\x02") + rng.randrange(46)
        content = content[:at] + struct.pack("<I", rng.choice(NUMBERS) % 2**32) + content[at + 4 :]
    return content


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:  # lines of it
        return flipped(content, rng, rng.randrange(len(content)))
    places: list[tuple[Any, Any]] = []

    def visit(part: Any) -> None:
        for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            visit(part[key])

    visit(value)
    for _ in range(rng.choice([1, 1, 2, 4])):
        part, key = rng.choice(places)
        other, its = rng.choice(places)
        new = (
            rng.choice(VALUES)
            if rng.random() < 0.7
            else json.loads(json.dumps(other.get(its) if isinstance(other, dict) else None))
        )
        if rng.random() < 0.1:
            new = json.loads("[" * 900 + "]" * 900)
        part[key] = new
    return json.dumps(value).encode()


# --- one case ---------------------------------------------------------------------------------------------------


class Watch:
    """Notes what is run, and what is written outside a folder, while it is on. It stays for the whole process."""

    RUN = (
        "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pickle.find_class",
    )  # fmt: skip

    def __init__(self, folder: Path):
        self.seen: list[str] = []
        self._folder = str(folder)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if event in self.RUN or (event == "exec" and self._is_text(arguments[0])):
            self.seen.append(f"{event} {arguments!r:.300}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, _, flags = arguments
            is_written = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if is_written and not os.path.realpath(os.fsdecode(path)).startswith((self._folder, "/dev/")):
                self.seen.append(f"{event} {arguments!r:.300}")

    def _is_text(self, code: Any) -> bool:
        """Whether code was made of a text, and not by an import or the standard library's named tuples."""
        caller = sys._getframe(2).f_code.co_filename
        is_file = os.path.exists(getattr(code, "co_filename", ""))
        return not is_file and not caller.startswith("<frozen") and "/collections/" not in caller


def one(kind: Kind, honest: Path, folder: Path, seed: str, watch: Watch | None) -> str | None:
    """Damages a copy of the honest files in a folder, reads it, and returns what went wrong."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(honest, folder)
    path = rng.choice(sorted(path for path in folder.iterdir() if path.stat().st_size))
    path.write_bytes(damaged(path.read_bytes(), rng))
    if kind.sign and rng.random() < 0.8:
        kind.sign(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(folder)
    except kind.errors:
        pass
    except Exception:
        wrong = traceback.format_exc()
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    if taken > MEGABYTES:
        wrong = f"{wrong or ''}it took {taken:.0f} MB"
    if watch and watch.seen:
        wrong = f"{wrong or ''}it led to {watch.seen}"
    return wrong


def batch(name: str, honest: Path, work: Path, seed: int, cases: range) -> str | None:
    """Reads cases in a process of its own; returns the first that goes wrong, and how."""
    report = work / "report"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which the child does not use
        child = os.fork()
    if child == 0:
        try:
            folder = work / "case"
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            tempfile.tempdir = str(work)
            if (sizes := Path("/proc/self/statm")).exists():  # Linux
                size = int(sizes.read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, resource.RLIM_INFINITY))
            if "torch" in sys.modules:  # whose threads are not in this process
                sys.modules["torch"].set_num_threads(1)
            signal.alarm(10 * SECONDS)
            KINDS[name].read(Path(shutil.copytree(honest, work / "whole")))  # imports what it needs
            watch = Watch(work)
            for case in cases:
                report.write_text(f"{case}\n")
                signal.alarm(SECONDS)
                if wrong := one(KINDS[name], honest, folder, f"{seed}/{name}/{case}", watch):
                    report.write_text(f"{case}\n{wrong}")
                    os._exit(1)
            os._exit(0)
        except BaseException:
            report.write_text(f"{report.read_text() if report.exists() else ''}{traceback.format_exc()}")
            os._exit(2)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(work / "whole", ignore_errors=True)
    if status == 0:
        return None
    case, _, wrong = report.read_text().partition("\n")
    if os.WIFSIGNALED(status):
        code = os.WTERMSIG(status)
        wrong = f"longer than {SECONDS} s" if code == signal.SIGALRM else f"ended by {signal.Signals(code).name}"
    return f"{name}, seed {seed}, case {case}: {wrong}"


# --- all of them ------------------------------------------------------------------------------------------------


def fuzz(
    kinds: list[str], seconds: float, seed: int, first: int = 0, count: int | None = None
) -> tuple[int, list[str]]:
    """Reads damaged files of each kind in turn, once at least, until the time is over.

    Returns:
        How many were read, and what went wrong with some.
    """
    found: list[str] = []
    end, start, done = time.monotonic() + seconds, first, 0
    size = BATCH if count is None else count
    with tempfile.TemporaryDirectory(prefix="videoswin-fuzz-") as top:
        work = Path(os.path.realpath(top))
        for name in kinds:
            (work / name).mkdir()
            KINDS[name].write(work / name)
        while True:
            for name in kinds:
                if start > first and time.monotonic() > end:
                    return done, found
                (work / "work").mkdir(exist_ok=True)
                if wrong := batch(name, work / name, work / "work", seed, range(start, start + size)):
                    kept = Path(tempfile.mkdtemp(prefix="videoswin-fuzz-found-")) / "files"
                    if (work / "work" / "case").exists():
                        shutil.copytree(work / "work" / "case", kept)
                    found.append(f"{wrong}\n  kept in {kept}")
                    print(found[-1], flush=True)
                done += size
            if count is not None:
                return done, found
            start += size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=None, help="default: another each time, which is printed")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--case", type=int, help="read this one alone, of the seed and the kind")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    single = {"first": options.case, "count": 1} if options.case is not None else {}
    done, found = fuzz(options.kinds, 60 * options.minutes, seed, **single)
    print(f"{done} files, {len(found)} failures")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
