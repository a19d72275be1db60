"""Classifying video files: decode, sample, preprocess, predict, average, name."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from videoswin_keras.addresses import public_address
from videoswin_keras.checkpoints import zoo
from videoswin_keras.checkpoints.errors import CheckpointError, OlderPortError
from videoswin_keras.checkpoints.labels import labels as dataset_labels
from videoswin_keras.checkpoints.load import locate, open_checkpoint
from videoswin_keras.checkpoints.own import read_metadata
from videoswin_keras.models import outputs
from videoswin_keras.models.conversion import build
from videoswin_keras.models.pixels import takes_pixels
from videoswin_keras.models.saved import load_model
from videoswin_keras.progress import Bar
from videoswin_keras.video import protocols, transforms
from videoswin_keras.video.protocols import Protocol, Views

# Published checkpoints of these many classes can only be of one dataset.
_DATASET_OF_CLASSES = {
    174: "something_something_v2",
    400: "kinetics400",
    600: "kinetics600",
    700: "kinetics700",
    710: "kinetics710",
}


@dataclass(frozen=True)
class Classification:
    """What a model says about one video.

    Attributes:
        path: The video file.
        labels: Names of all classes.
        probabilities: One for each class, in 0–1; the mean over the views.
        num_views: Number of views averaged.
        multi_label: Whether several classes can be there at once; else the probabilities sum to 1.
    """

    path: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    num_views: int
    multi_label: bool = False

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns the most probable classes and their probabilities, the best first."""
        order = np.argsort(self.probabilities)[::-1][:count]
        return [(self.labels[index], self.probabilities[index]) for index in order]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain JSON values."""
        return {**asdict(self), "labels": list(self.labels), "probabilities": list(self.probabilities)}


class VideoPipeline:
    """A classifier with what it needs to take a video file: the class names and the protocol of its clips.

    Args:
        model: `VideoSwinClassifier`, or a Keras model with another head over a `VideoSwinBackbone`.
        labels: Class names in index order; default: the model's own, else "class 0", "class 1", ….
        protocol: How clips are taken from a video; default: the model's own, else Kinetics', for clips of its size.

    Raises:
        ValueError: if the model has no classes, or not as many as there are labels.

    Example:

    >>> pipeline = VideoPipeline.load("pico_moving_shapes")
    >>> pipeline.labels[0]
    'moving left'
    """

    def __init__(
        self,
        model: keras.Model,
        labels: Sequence[str] | None = None,
        protocol: Protocol | None = None,
    ):
        self.model = outputs.with_classes(model)  # with a memory: what it gives while that is empty
        self.labels = outputs.class_names(self.model, labels)
        self.protocol = protocol or outputs.told(self.model, "protocol") or _protocol(None, None, self.model)

    @classmethod
    def load(
        cls,
        weights: str | Path,
        labels: Sequence[str] | None = None,
        protocol: Protocol | None = None,
        interval: int | None = None,
    ) -> Self:
        """Loads a model with its class names and its protocol, as far as they are known.

        Args:
            weights: A name of the zoo, a URL, a checkpoint file of any known format, or a `.keras` model.
            labels: Class names in index order. Default: those of the dataset a published checkpoint was trained on.
            protocol: Default: that of the published checkpoint, or Kinetics', for clips of the model's own size.
            interval: Distance in frames of a clip's neighbouring frames, where not that of the default protocol.
                Videos of no more frames than this are refused.

        Raises:
            FileNotFoundError, CheckpointError: as `load_checkpoint`.
            ValueError: if the model has no classes.
        """
        model, labels, known_protocol = load_classifier(weights, labels)
        protocol = protocol or known_protocol
        if interval is not None:
            protocol = replace(protocol, interval=interval, is_interval_checked=True)
        return cls(model, labels, protocol)

    def __call__(
        self, path: str | Path, views: int = 1, progress: bool = False, input_rate: float | None = None
    ) -> Classification:
        """Classifies one video file.

        Args:
            path: The video.
            views: 1, a clip from the middle; or 12, the published test: the mean over all its clips and crops.
            progress: Whether to show a progress bar where there are several views.
            input_rate: Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.

        Raises:
            FileNotFoundError: if there is no such file.
            VideoError: if it is no video or cannot be decoded.
            ValueError: if the file has times and an `input_rate` is given, or no more frames than a given interval.
        """
        return self.classify_views(path, self.protocol.views(path, views, input_rate), progress)

    def classify_views(self, path: str | Path, views: Views, progress: bool = False) -> Classification:
        """Classifies one video that has been decoded.

        Args:
            path: The video; only for the result.
            views: What `protocol.views` returned for it.
            progress: As for a call.
        """
        bar = Bar(views, unit="view", leave=False, disable=None if progress and len(views) > 1 else True)
        scores = np.mean([self.probabilities(clip) for clip in bar], axis=0)
        is_multi_label = outputs.is_multi_label(self.model)
        return Classification(str(path), self.labels, tuple(scores.tolist()), len(views), is_multi_label)

    def probabilities(self, clip: np.ndarray) -> np.ndarray:
        """Returns the probability of each class for one clip, uint8 (frames, height, width, 3), RGB in 0–255."""
        return outputs.probabilities(self.model, self.model.predict_on_batch(as_input(self.model, clip[None])))[0]


def load_classifier(weights: str | Path, labels: Sequence[str] | None = None) -> tuple[Any, tuple[str, ...], Protocol]:
    """Loads a model that has classes, with or without a memory.

    Args:
        weights: A name of the zoo, a URL, a checkpoint file of any known format, or a `.keras` model.
        labels: Class names in index order. Default: those it was saved with, or of the dataset it was trained on, where
            that is known, else "class 0", "class 1", ….

    Returns:
        The model; the names of its classes; and the protocol of its clips: that it was saved with, or that of the
        published checkpoint, or Kinetics', for clips of the model's own size.

    Raises:
        FileNotFoundError, CheckpointError: as `load_checkpoint`.
        ValueError: if the model has no classes, or not as many as labels, or takes only clips that are not square.
    """
    path, shown = locate(weights), public_address(str(weights))
    metadata = read_metadata(path)
    entry = zoo.ENTRIES.get(str(weights)) or zoo.ENTRIES.get(metadata.get("name", ""))
    model, format_, normalization = _load(path)
    normalization = metadata.get("normalization", normalization)
    if normalization:
        raise CheckpointError(
            f"{shown} was trained with {normalization}, and clips would be normalised by ImageNet's. Load it with "
            "`from_checkpoint`, and give it clips that are normalised as it was trained."
        )
    format_ = metadata.get("format", format_)  # what it was converted from, or is
    try:
        classifier = outputs.with_classes(model)
    except ValueError as error:
        raise ValueError(f"{shown} has no classes: {error}") from error
    height, width = classifier.input_shape[2:4]
    if height != width:
        raise ValueError(
            f"{shown} takes clips of {height} × {width} pixels only, and crops are square. "
            "Build it for clips of any size."
        )
    dataset = None
    if entry:
        dataset = entry.dataset
    elif format_ != "videoswin_keras":
        dataset = _DATASET_OF_CLASSES.get(classifier.output_shape[-1])
    test = {"torchvision": "torchvision", "mmaction2": "kinetics_mmaction2"}.get(format_, dataset)
    test = dataset if dataset == "something_something_v2" else test
    if not labels and outputs.told(classifier, "labels") is None and dataset:
        labels = dataset_labels(dataset)
    protocol = outputs.told(classifier, "protocol") or _protocol(entry, test, classifier)
    return model, outputs.class_names(classifier, labels), protocol


def _load(path: Path) -> tuple[Any, str, str]:
    """Returns the model of a file, the format of its checkpoint, and its normalisation where that is unusual."""
    if path.suffix == ".keras":
        with contextlib.suppress(OlderPortError):  # of which the weights are taken
            return load_model(path), "videoswin_keras", ""
    checkpoint = open_checkpoint(path)
    return build(checkpoint, include_rescaling=True), checkpoint.format, checkpoint.normalization


def as_input(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """Returns RGB in 0–255 as `model` takes it: normalised, unless the model does that itself."""
    return pixels if takes_pixels(model) else transforms.normalize(pixels)


def _protocol(entry: zoo.ZooEntry | None, test: str | None, model: Any) -> Protocol:
    """Returns the protocol of a checkpoint: as published, else that named `test`, for clips of the model's own size."""
    frames, height, width = model.input_shape[1:4]
    own = {"clip_frames": frames, "crop": height if height == width else None}
    published: dict[str, Any] = {}
    if entry is not None:
        names = ("interval", "short_side_single", "crop")
        published = {name: getattr(entry, name) for name in names} | {
            "clip_frames": entry.frames,
            "num_clips": entry.clips,
            "num_crops": entry.crops,
            "short_side_full": entry.short_side,
        }
    changes = {name: value for name, value in {**own, **published}.items() if value is not None}
    name = entry.protocol if entry is not None else test
    return protocols.get(name if name in protocols.PROTOCOLS else "kinetics", **changes)


def classify(
    path: str | Path,
    weights: str | Path = "tiny_kinetics400",
    labels: Sequence[str] | None = None,
    views: int = 1,
    input_rate: float | None = None,
) -> Classification:
    """Classifies one video file. For many files, load a `VideoPipeline` once and call it.

    Args:
        path: A video of any format and size that FFmpeg decodes.
        weights: A name of the zoo, a URL, a checkpoint file of any known format, or a `.keras` model.
        labels: Class names in index order; default: those of the published checkpoint.
        views: 1, a clip from the middle; or 12, the published test, more exact and as many times slower.
        input_rate: Frames per second of a bare stream (H.264, HEVC, motion JPEG, …), which has no times.

    Returns:
        A `Classification`: `.top(5)` gives names and probabilities.

    Raises:
        FileNotFoundError: if there is no such video or checkpoint.
        VideoError: if the file is no video or cannot be decoded.
        ValueError: if the file has times and an `input_rate` is given.
        CheckpointError: if the weights cannot be read.
    """
    return VideoPipeline.load(weights, labels)(path, views, input_rate=input_rate)
