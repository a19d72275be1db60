"""The registry of published checkpoints, read from `zoo.json`; `MODEL_ZOO.md` is made from it."""

import difflib
import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from videoswin_keras.addresses import is_web_address, public_address

_FOLDER = resources.files("videoswin_keras.checkpoints")
_WEIGHTS = ".weights.h5"

# How datasets, publishers and pretraining are called in MODEL_ZOO.md.
_TITLES = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "kinetics710": "Kinetics-710",
    "something_something_v2": "Something-Something v2",
    "moving_shapes": "Moving shapes",
    "imagenet1k": "ImageNet-1K",
    "imagenet22k": "ImageNet-22K",
    "paddlevideo": "PaddleVideo",
}


@dataclass(frozen=True)
class Measurement:
    """What this library reached with a checkpoint, under the protocol of the reported figures."""

    top1: float  # per cent
    top5: float  # per cent
    videos: int  # number of videos tested
    version: str  # of videoswin_keras


@dataclass(frozen=True)
class Verification:
    """How near the converted checkpoint is to the publisher's own values in a live PyTorch model."""

    difference: float  # largest difference of a logit, over the spread of the logits
    date: str
    version: str  # of videoswin_keras


@dataclass(frozen=True)
class ZooEntry:
    """One published checkpoint. A figure that its publisher does not give is None.

    Attributes:
        name: Unique name, such as "base_kinetics400_imagenet22k".
        format: Who published it: "official", "mmaction2", "torchvision", "paddlevideo" or "videoswin_keras".
        architecture: "tiny", "small", "base", "large" or "pico".
        window: (frames, height, width) of a window in tokens.
        dataset: Dataset of the classes; `labels(dataset)` gives their names.
        classes: Number of classes.
        licence: SPDX name of the licence of the publisher's repository.
        url: Address of the publisher's file; empty where the file ships with this package.
        file: For a file that ships with this package, its name relative to this folder.
        sha256_prefix: What the file's SHA-256 begins with, where published.
        pretrain: Dataset of the model that training began from.
        protocol: Test protocol of the reported figures: "kinetics", "kinetics_mmaction2", "something_something_v2" or
            "torchvision".
        frames: Frames of a clip.
        interval: Step between the frames of a clip, in frames of the video.
        frames_per_second: Rate that the video is resampled to first, where it is.
        clips: Clips of a video in testing, spread over time.
        crops: Crops of a clip in testing.
        short_side: Pixels of the video's shorter side before the crop, in testing.
        short_side_single: The same when a video is seen in one view only.
        crop: Pixels of the side of the square that is cut out.
        top1: Reported accuracy in per cent; of the packaged model, its accuracy on held-out clips.
        top5: Reported top-5 accuracy in per cent.
        params: Number of parameters, head included.
        flops_g: Reported multiply-adds of one view, in 10⁹.
        note: Anything else worth knowing.
        measured: What this library reached with the checkpoint, if anyone has measured.
        verified: How near the converted checkpoint is to PyTorch, if a maintainer has published it.
    """

    name: str
    format: str
    architecture: str
    window: tuple[int, int, int]
    dataset: str
    classes: int
    licence: str
    url: str = ""
    file: str | None = None
    sha256_prefix: str | None = None
    pretrain: str | None = None
    protocol: str | None = None
    frames: int | None = None
    interval: int | None = None
    frames_per_second: int | None = None
    clips: int | None = None
    crops: int | None = None
    short_side: int | None = None
    short_side_single: int = 256
    crop: int = 224
    top1: float | None = None
    top5: float | None = None
    params: int | None = None
    flops_g: float | None = None
    note: str | None = None
    measured: Measurement | None = None
    verified: Verification | None = None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Returns the entry of one record of `zoo.json`."""
        record = {**record, "window": tuple(record["window"])}
        if record.get("measured") is not None:
            record["measured"] = Measurement(**record["measured"])
        if record.get("verified") is not None:
            record["verified"] = Verification(**record["verified"])
        if record.get("file") is not None:
            record["top1"] = _held_out_accuracy(record["file"])
        return cls(**record)

    @property
    def path(self) -> Path:
        """The checkpoint's file in this package. Only of entries that have a `file`; the others have a `url`."""
        if self.file is None:
            raise ValueError(f"{self.name} does not ship with the package; it is downloaded from {self.url}.")
        return Path(str(_FOLDER)) / self.file

    @property
    def short_names(self) -> tuple[str, ...]:
        """Names that mean this checkpoint once the architecture is known; see `find`."""
        without_architecture = self.name.removeprefix(f"{self.architecture}_")
        with_pretraining = () if self.pretrain is None else (f"{self.dataset}_{self.pretrain}",)
        return without_architecture, self.dataset, *with_pretraining


def _held_out_accuracy(file: str) -> float | None:
    """Returns the accuracy, in per cent, that the training of a packaged model wrote beside its weights."""
    report = _FOLDER / (file.removesuffix(_WEIGHTS) + ".json")
    if not report.is_file():
        return None
    return round(100 * json.loads(report.read_text(encoding="utf-8"))["held_out_accuracy"], 2)


def _load() -> dict[str, ZooEntry]:
    records = json.loads((_FOLDER / "zoo.json").read_text(encoding="utf-8"))["checkpoints"]
    return {record["name"]: ZooEntry.of(record) for record in records}


# By name, in order of preference: official, mmaction2, torchvision, PaddleVideo; of one publisher, the checkpoint
# that began from ImageNet-1K before the one that began from ImageNet-22K.
ENTRIES: dict[str, ZooEntry] = _load()


def find(name: str, architecture: str | None = None) -> ZooEntry:
    """Returns the checkpoint called `name`.

    With an architecture, a short name is enough. Short are the name without its architecture
    ("kinetics400_torchvision"), the dataset ("kinetics400"), and the dataset with the pretraining
    ("kinetics400_imagenet22k"). Where a short name fits several checkpoints, the first of the registry is taken:
    official before mmaction2, torchvision and PaddleVideo, ImageNet-1K before ImageNet-22K. So "kinetics400" gives
    the model of the paper's main line, not the one of highest accuracy, and goes on giving it as others are added.

    Args:
        name: Name or short name.
        architecture: "tiny", "small", "base", "large" or "pico"; None if `name` is a whole name.

    Raises:
        ValueError: if there is no such checkpoint, or it is of another architecture.

    Example:

    >>> find("kinetics400", "tiny").name
    'tiny_kinetics400'
    >>> find("kinetics400", "large").name
    'large_kinetics400_mmaction2'
    """
    entries = [entry for entry in ENTRIES.values() if architecture in (None, entry.architecture)]
    for entry in entries:
        if name == entry.name or (architecture is not None and name in entry.short_names):
            return entry
    raise ValueError(_advice(name, architecture, entries))


def check(source: str | os.PathLike, architecture: str | None = None) -> None:
    """Checks that a checkpoint is a file, an address, or in the zoo; opens and downloads nothing.

    Args:
        source: A path, a URL, or a name of the zoo.
        architecture: As in `find`.

    Raises:
        FileNotFoundError: if it is none of them.

    Example:

    >>> check("tiny_kinetics400")
    """
    text = os.fspath(source)
    if is_web_address(text) or Path(text).is_file():
        return
    shown = public_address(text)
    try:
        find(text, architecture)
    except ValueError as error:
        if Path(text).is_dir():
            raise FileNotFoundError(f"{shown} is a folder, not a checkpoint file.") from error
        if Path(text).name != text or Path(text).suffix in _FILE_SUFFIXES:
            raise FileNotFoundError(f"There is no weights file at {shown}. Is the path right?") from error
        raise FileNotFoundError(f"{shown!r} is neither a file nor a checkpoint of the zoo. {error}") from error


_FILE_SUFFIXES = (".keras", ".h5", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".pdparams", ".zip", ".onnx")


def _advice(name: str, architecture: str | None, entries: list[ZooEntry]) -> str:
    """Says why `find` has found nothing, and what there is."""
    if not entries:
        known = ", ".join(sorted({entry.architecture for entry in ENTRIES.values()}))
        return f"There are no checkpoints of the architecture {architecture!r}. Architectures: {known}."
    names = [entry.name for entry in entries]
    if name in ENTRIES:
        lines = [f"{name!r} is a checkpoint of the architecture {ENTRIES[name].architecture}, not {architecture}."]
    else:
        # A short name comes here where no architecture completes it: show what it could have meant.
        close = [entry.name for entry in entries if name in entry.short_names][:3]
        if not close:
            short = [] if architecture is None else [short for entry in entries for short in entry.short_names]
            close = difflib.get_close_matches(name, dict.fromkeys(names + short), n=3)
        lines = [f"There is no checkpoint called {public_address(name)!r}."]
        if close:
            lines.append(f"Did you mean {' or '.join(close)}?")
    lines.append("`videoswin models` lists all.")
    return "\n".join(lines)


def table() -> str:
    """Returns the registry as a table for the terminal.

    Example:

    >>> print(table().splitlines()[0].split()[:3])
    ['name', 'architecture', 'dataset']
    """
    rows = [("name", "architecture", "dataset", "classes", "window", "top-1", "params", "source")]
    rows += [
        (
            entry.name,
            entry.architecture,
            entry.dataset,
            str(entry.classes),
            "×".join(map(str, entry.window)),
            _number(entry.top1),
            _millions(entry.params),
            entry.format,
        )
        for entry in ENTRIES.values()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def model_zoo_markdown() -> str:
    """Returns the whole of MODEL_ZOO.md."""
    sections = [_INTRODUCTION]
    packaged = [entry for entry in ENTRIES.values() if entry.file is not None]
    published = [entry for entry in ENTRIES.values() if entry.file is None]
    for dataset in sorted({entry.dataset for entry in published}):
        entries = [entry for entry in published if entry.dataset == dataset]
        sections.append(f"## {_title(dataset)}, {entries[0].classes} classes\n\n{_markdown_table(entries)}")
    sections += [_packaged_section(entry) for entry in packaged]
    return "\n\n".join(sections) + "\n"


_INTRODUCTION = """\
# Model zoo

<!-- Made by `python converters/write_model_zoo.py` from videoswin_keras/checkpoints/zoo.json. Edit those, not this. -->

Every published Video Swin checkpoint known to us, by the name it has here, and the small model that ships with the
package. `videoswin models` prints the same list.

The checkpoints are their publishers': they are downloaded from the publisher's own address, once, into
`videoswin_keras` in Keras's folder (`~/.keras`, or what `KERAS_HOME` says), and converted there. Nothing of them is
part of this package. The licence named is that of the publisher's repository; the datasets have terms of their own.

## Use

```python
from videoswin_keras import VideoSwinB, VideoSwinT, from_checkpoint

model = VideoSwinT(weights="kinetics400")  # 400 classes, window (8, 7, 7)
model = VideoSwinB(weights="kinetics400_imagenet22k")
model = VideoSwinB(weights="something_something_v2", num_classes=174, window_size=(16, 7, 7))
model = from_checkpoint("base_something_something_v2")  # the same: a checkpoint knows its classes and its window
```

```
videoswin convert base_kinetics600_imagenet22k -o base_kinetics600.weights.h5
```

A whole name from the tables works everywhere. Where the architecture is known, as in `VideoSwinT`, a short one is
enough: the name without the architecture (`kinetics400_torchvision`), the dataset (`kinetics400`), or the dataset
and the pretraining (`kinetics400_imagenet22k`). If several checkpoints fit, the official one is taken before that of
mmaction2, torchvision and PaddleVideo, and ImageNet-1K before ImageNet-22K.

## What the figures mean

**Reported** figures are the publishers' own, not ours. **Measured** ones are what this library reached
with the checkpoint, over the whole validation set and under the same protocol. Accuracies are top-1 / top-5 in per
cent; a dash stands for what the publisher does not say. Parameters include the head. GFLOPs are multiply-adds of one
view, as reported. *Differs from PyTorch by* is the largest difference of a logit between the converted checkpoint here
and the publisher's values in a live PyTorch model, over the spread of the logits; `converters/publish.py` measures it.

The columns *frames × interval* and *clips × crops* give the protocol of the reported figures:

| protocol | frames of a clip | temporal clips × spatial crops | size | score of a video |
|---|---|---|---|---|
| Kinetics (official, PaddleVideo) | 32, every second one | 4 × 3 | short side 224, 3 crops of 224 × 224 \
along the long side | mean of the softmax over the views |
| Kinetics (mmaction2: `kinetics_mmaction2`) | 32, every second one, of other starts | 4 × 3 | same | same |
| Something-Something v2 | 32, spread over the whole video | 1 × 3 | same | same |
| torchvision | 32 at 15 frames per second | 12 × 1 | short side 256, centre 224 × 224 | same |

The *SHA-256* column holds the beginning of the file's hash where its publisher put it in the file's name; a download
is checked against it."""


def _markdown_table(entries: list[ZooEntry]) -> str:
    header = (
        "name",
        "architecture",
        "window",
        "pretraining",
        "frames × interval",
        "clips × crops",
        "reported",
        "measured",
        "differs from PyTorch by",
        "parameters",
        "GFLOPs",
        "licence",
        "SHA-256",
        "file",
    )
    rows = [header, ("---",) * len(header)]
    rows += [
        (
            f"`{entry.name}`",
            entry.architecture,
            "×".join(map(str, entry.window)),
            "–" if entry.pretrain is None else _title(entry.pretrain),
            _sampling(entry),
            "–" if entry.clips is None else f"{entry.clips} × {entry.crops}",
            "–" if entry.top1 is None else f"{_number(entry.top1)} / {_number(entry.top5)}",
            _measured(entry.measured),
            _verified(entry.verified),
            _millions(entry.params),
            _number(entry.flops_g),
            entry.licence,
            "–" if entry.sha256_prefix is None else f"`{entry.sha256_prefix}…`",
            f"[{_title(entry.format)}]({entry.url})",
        )
        for entry in entries
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [f"\n`{entry.name}`: {entry.note}." for entry in entries if entry.note is not None]
    return "\n".join(lines)


def _packaged_section(entry: ZooEntry) -> str:
    accuracy = "–" if entry.top1 is None else f"{_number(entry.top1)} %"
    return f"""\
## {_title(entry.dataset)}: the model in the package

`{entry.name}` ships with the package, so that examples, tests and demonstrations run at once and offline.
It tells {entry.classes} motions of made-up shapes apart, such as moving left from moving right, and does nothing else.

| name | architecture | window | frames × interval | accuracy on held-out clips | parameters | licence |
|---|---|---|---|---|---|---|
| `{entry.name}` | {entry.architecture} | {"×".join(map(str, entry.window))} | {_sampling(entry)} | {accuracy} \
| {_millions(entry.params)} | {entry.licence} |

```python
from videoswin_keras import from_checkpoint

model = from_checkpoint("{entry.name}")
```"""


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _number(value: float | None) -> str:
    return "–" if value is None else str(value)


def _millions(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.1f} M"


def _sampling(entry: ZooEntry) -> str:
    if entry.frames is None:
        return "–"
    if entry.frames_per_second is not None:
        return f"{entry.frames} at {entry.frames_per_second}/s"
    return f"{entry.frames}, uniform" if entry.interval is None else f"{entry.frames} × {entry.interval}"


def _verified(verified: Verification | None) -> str:
    return "not yet measured" if verified is None else f"{verified.difference:.0e} ({verified.version})"


def _measured(measured: Measurement | None) -> str:
    if measured is None:
        return "not yet measured"
    return f"{_number(measured.top1)} / {_number(measured.top5)} ({measured.videos} videos, {measured.version})"
