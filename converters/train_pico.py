"""Trains Pico, the small model that ships with the library, on moving shapes, and measures it.

    python converters/train_pico.py --output videoswin_keras/checkpoints/weights/pico_moving_shapes.weights.h5 \
        --report videoswin_keras/checkpoints/weights/pico_moving_shapes.json

A few minutes on two processor cores. Needs PyAV and OpenCV for the round trip through mp4.
"""

import argparse
import datetime
import io
import json
import time
from pathlib import Path
from typing import Any

import av
import cv2
import keras
import numpy as np
from tqdm import tqdm

from videoswin_keras.atomic import replacing
from videoswin_keras.data.synthetic import MOTIONS, moving_shapes
from videoswin_keras.models.backbone import VideoSwinBackbone
from videoswin_keras.models.classifier import VideoSwinClassifier
from videoswin_keras.nn.layers import IMAGENET_MEAN, IMAGENET_STD

FRAMES, SIZE = 16, 64
# A clip of 16 frames of 64 × 64 pixels has 8 × 16 × 16 tokens: with windows of 4 × 4 × 4 the windows shift along
# all three axes in the first two stages and in time in the third; the last stage has a single block, unshifted.
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "depths": (2, 2, 2, 1),
    "num_heads": (1, 2, 4, 8),
    "window_size": (4, 4, 4),
    "drop_path_rate": 0.0,
}
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.02

# Seeds from here on are for measuring; `--seed` must be below.
HELD_OUT_SEED, ROUND_TRIP_SEED = 900_001, 900_002

# What a clip shows, by class index, after mirroring it, exchanging height and width, or reversing time.
MIRRORED = np.array([1, 0, 2, 3, 5, 4, 6, 7])
TRANSPOSED = np.array([2, 3, 0, 1, 5, 4, 6, 7])
REVERSED = np.array([1, 0, 3, 2, 5, 4, 7, 6])


def build() -> VideoSwinClassifier:
    """Returns the untrained model."""
    backbone = VideoSwinBackbone((None, None, None, 3), **ARCHITECTURE)
    return VideoSwinClassifier(backbone, num_classes=len(MOTIONS), dropout_rate=0.1)


def with_auxiliary_heads(model: VideoSwinClassifier) -> keras.Model:
    """Returns a model that shares the layers of `model` and also names the motion after each stage.

    Trials without these heads were still at chance after hundreds of steps: few tokens show motion, and what they
    show is lost in the mean over all. The largest value over the tokens finds them. The heads are dropped after
    training.
    """
    x = model.backbone.output
    for name in ("avg_pooling", "dropout", "head"):
        x = model.get_layer(name)(x)
    outputs = {"head": x}
    for stage, x in model.backbone.pyramid_outputs.items():
        x = keras.layers.GlobalMaxPooling3D()(keras.layers.LayerNormalization()(x))
        outputs[f"{stage}_head"] = keras.layers.Dense(len(MOTIONS), name=f"{stage}_head")(x)
    return keras.Model(model.backbone.input, outputs)


def normalize(clips: np.ndarray) -> np.ndarray:
    """Returns RGB in 0–255 as the model takes it, float32."""
    return (clips.astype("float32") - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)


def freeze(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns clips of one repeated frame, chosen at random from each clip."""
    chosen = rng.integers(clips.shape[1], size=len(clips))
    return np.repeat(clips[np.arange(len(clips)), chosen][:, None], clips.shape[1], axis=1)


def augment(clip: np.ndarray, label: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Returns a variation of the clip, float32 in 0–255, and what it shows.

    Symmetries give other clips that are as likely; blur, noise, contrast and brightness stand for what cameras
    and video files do.
    """
    # The dataset's frame wraps around, so that a shifted clip is one like any other.
    clip = np.roll(clip, rng.integers(SIZE, size=2), axis=(1, 2))[..., rng.permutation(3)]
    mirror, transpose, blur = rng.random(3) < 0.5
    if mirror:
        clip, label = clip[:, :, ::-1], MIRRORED[label]
    if transpose:
        clip, label = clip.swapaxes(1, 2), TRANSPOSED[label]
    clip = clip.astype("float32")
    if blur:
        amount = np.float32(rng.uniform(0, 0.3))
        for axis in (1, 2):
            neighbours = np.roll(clip, 1, axis) + np.roll(clip, -1, axis)
            clip = (1 - 2 * amount) * clip + amount * neighbours
    strength = int(rng.integers(0, 13))
    clip = clip * np.float32(rng.uniform(0.6, 1.2)) + np.float32(rng.uniform(-30, 30))
    clip += rng.integers(-strength, strength + 1, clip.shape, dtype="int8")
    return np.clip(clip, 0, 255), int(label)


class TrainingClips(keras.utils.PyDataset):
    """As many batches as there are steps; batch `i` depends on the seed and `i` alone.

    A batch holds each of its clips in both directions of time, which differ in their motion only. A batch of frozen
    clips, which have no direction, holds as many different ones.
    """

    def __init__(
        self, clips: np.ndarray, labels: np.ndarray, steps: int, seed: int, frozen: bool, outputs: tuple[str, ...]
    ):
        super().__init__(workers=2, max_queue_size=8)
        self.clips, self.labels, self.steps, self.seed, self.frozen = clips, labels, steps, seed, frozen
        self.outputs = outputs

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng((self.seed, index))
        chosen = rng.choice(len(self.clips), BATCH_SIZE if self.frozen else BATCH_SIZE // 2, replace=False)
        clips = freeze(self.clips[chosen], rng) if self.frozen else self.clips[chosen]
        batch = [augment(clip, label, rng) for clip, label in zip(clips, self.labels[chosen], strict=True)]
        if not self.frozen:
            batch += [(clip[::-1], REVERSED[label]) for clip, label in batch]
        labels = np.array([label for _, label in batch])
        return normalize(np.stack([clip for clip, _ in batch])), dict.fromkeys(self.outputs, labels)


def train(clips: np.ndarray, labels: np.ndarray, steps: int, seed: int, frozen: bool) -> tuple[Any, float]:
    """Returns a model trained from scratch, and the seconds it took."""
    keras.utils.set_random_seed(seed)
    model = build()
    supervised = with_auxiliary_heads(model)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(steps - WARM_UP_STEPS, 1), warmup_target=LEARNING_RATE, warmup_steps=WARM_UP_STEPS
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "relative_position_bias_table"])  # norms decay
    outputs = tuple(supervised.output)
    losses = {name: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for name in outputs}
    supervised.compile(optimizer, losses, metrics={"head": ["accuracy"]})
    start = time.perf_counter()
    supervised.fit(TrainingClips(clips, labels, steps, seed, frozen, outputs), epochs=1, shuffle=False)
    return model, time.perf_counter() - start


def accuracy(model: keras.Model, clips: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of clips that the model names rightly."""
    predictions = model.predict(normalize(clips), batch_size=BATCH_SIZE, verbose=0)
    return float(np.mean(predictions.argmax(-1) == labels))


def through_mp4(clip: np.ndarray, codec: str) -> np.ndarray:
    """Returns the clip after encoding it as mp4 (25 frames per second, the encoder's own quality) and decoding."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def round_trip(count: int, codec: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns held-out clips that were rendered at twice the size, went through mp4, and were made smaller."""
    clips, labels = moving_shapes(count, ROUND_TRIP_SEED, FRAMES, 2 * SIZE)
    decoded = [through_mp4(clip, codec) for clip in tqdm(clips, desc=f"mp4, {codec}")]
    resized = [[cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for image in clip] for clip in decoded]
    return np.array(resized), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file for the weights, .weights.h5")
    parser.add_argument("--report", type=Path, help="file for the figures, .json")
    parser.add_argument("--steps", type=int, default=2800, help=f"batches of {BATCH_SIZE} clips (default: 2800)")
    parser.add_argument("--clips", type=int, default=4096, help="rendered clips that batches vary (default: 4096)")
    parser.add_argument("--seed", type=int, default=0, help="of the training clips and of the model (default: 0)")
    parser.add_argument("--skip-frozen", action="store_true", help="do not train the second model, on frozen clips")
    arguments = parser.parse_args()
    if not arguments.output.name.endswith(".weights.h5"):
        parser.error(f"--output must end in .weights.h5, received {arguments.output}")
    if not 0 <= arguments.seed < HELD_OUT_SEED:
        parser.error(f"--seed must be from 0 to {HELD_OUT_SEED - 1}: later ones are for measuring")

    clips, labels = moving_shapes(arguments.clips, arguments.seed, FRAMES, SIZE)
    model, seconds = train(clips, labels, arguments.steps, arguments.seed, frozen=False)
    with replacing(arguments.output) as temporary:
        model.save_weights(temporary)

    held_out, held_out_labels = moving_shapes(800, HELD_OUT_SEED, FRAMES, SIZE)
    frozen = freeze(held_out, np.random.default_rng(HELD_OUT_SEED))
    report: dict[str, Any] = {
        "held_out_accuracy": accuracy(model, held_out, held_out_labels),
        "single_frame_accuracy": accuracy(model, frozen, held_out_labels),
    }
    if not arguments.skip_frozen:
        other, _ = train(clips, labels, arguments.steps, arguments.seed, frozen=True)
        report["trained_on_single_frames_accuracy"] = accuracy(other, frozen, held_out_labels)
    report["mp4_round_trip_accuracy"] = accuracy(model, *round_trip(400, "libx264"))
    report["mpeg4_part2_round_trip_accuracy"] = accuracy(model, *round_trip(400, "mpeg4"))
    report |= {
        "parameters": model.count_params(),
        "steps": arguments.steps,
        "seconds": round(seconds),
        "backend": keras.backend.backend(),
        "keras_version": keras.version(),
        "date": datetime.date.today().isoformat(),
    }
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:{width}}  {value:.4f}" if isinstance(value, float) else f"{name:{width}}  {value}")
    if arguments.report:
        with replacing(arguments.report) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
