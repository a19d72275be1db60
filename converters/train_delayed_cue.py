"""Shows that the memory remembers: a model answers now what it was shown many clips ago.

    python converters/train_delayed_cue.py --output delayed_cue        # about ten minutes on two CPU cores

In a sequence of clips, each shows a drifting square with stripes in one of four directions. In one of the first three
clips the square is red: the cue. The direction of its stripes is the right answer from then on. All later clips are
distractors, of other colours and with stripes drawn anew, so that nothing of the cue is left in them: without a memory
the best answer is chance, 25 %. The memory's queue holds three clips, and the longest training sequences end nine to
eleven clips after the cue. What is still right 90 clips after it, thirty times the length of the queue, went there by
the feedback alone: summary to summary.

Writes `delayed_cue.json` (what was measured) and `delayed_cue.png` (accuracy by delay).
"""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from videoswin_keras import RecurrentVideoSwin, VideoSwinBackbone, VideoSwinClassifier
from videoswin_keras.atomic import replacing

CLASSES = ("horizontal", "vertical", "rising", "falling")
NORMALS = np.array([(1, 0), (0, 1), (1, 1), (1, -1)])  # (rows, columns) across the stripes of each
FRAMES, SIZE, SQUARE, PERIOD = 4, 32, 16, 4  # of a clip; the last three in pixels
QUEUE, TOKENS = 3, 4
# Training begins with the cue alone and goes on to longer sequences: (clips, sequences per batch, share of the steps).
CURRICULUM = ((1, 128, 0.3), (4, 48, 0.3), (12, 32, 0.4))
DELAYS = (1, 2, QUEUE, 2 * QUEUE, 3 * QUEUE, 10 * QUEUE, 20 * QUEUE, 30 * QUEUE)
HELD_OUT_SEED = 900_021


def sequences(count: int, clips: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws sequences of clips.

    Returns:
        Clips, uint8 (count, clips, FRAMES, SIZE, SIZE, 3); the class of the cue, int64 (count,); and in which clip it
        is shown, int64 (count,), 0 to 2.
    """
    stripes = rng.integers(4, size=(count, clips))
    cue = rng.integers(min(3, clips), size=count)
    labels = stripes[np.arange(count), cue]
    colours = np.array([(40, 200, 60), (50, 90, 230), (40, 200, 200)], "uint8")[rng.integers(3, size=(count, clips))]
    colours[np.arange(count), cue] = (230, 40, 40)
    drift = rng.integers(-2, 3, size=(count, clips, 1, 2)) * np.arange(FRAMES)[:, None]
    corner = rng.integers(SIZE, size=(count, clips, 1, 2)) + drift
    rows, columns = ((np.arange(SIZE) - corner[..., axis, None]) % SIZE for axis in (0, 1))
    covered = (rows[..., :, None] < SQUARE) & (columns[..., None, :] < SQUARE)
    normal = NORMALS[stripes][:, :, None, :, None, None]
    phase = rows[..., :, None] * normal[:, :, :, 0] + columns[..., None, :] * normal[:, :, :, 1]
    lit = covered & (phase % PERIOD < PERIOD // 2)
    background = rng.integers(90, 150, size=(count, clips, 1, SIZE, SIZE, 1), dtype="uint8")
    pictures = np.where(covered[..., None], np.uint8(10), background)
    pictures = np.where(lit[..., None], colours[:, :, None, None, None], pictures)
    return pictures, labels, cue


def build(memory: bool) -> RecurrentVideoSwin:
    """Returns the untrained model; without a memory the same, with one that is never trained to be read."""
    backbone = VideoSwinBackbone(
        (FRAMES, SIZE, SIZE, 3),
        embed_dim=32,
        depths=(1, 1),
        num_heads=(1, 2),
        window_size=(2, 4, 4),
        drop_path_rate=0.0,
        include_rescaling=True,
    )
    model = RecurrentVideoSwin(
        VideoSwinClassifier(backbone, len(CLASSES), dropout_rate=0.0),
        stages=(2,),
        num_tokens=TOKENS,
        memory_length=QUEUE,
    )
    if not memory:
        for layer in model.memories.values():
            layer.trainable = False  # its gate stays at zero: it adds nothing
    return model


class Batches(keras.utils.PyDataset):
    """New sequences for every step; the clips before the cue do not count."""

    def __init__(self, steps: int, batch_size: int, clips: int, seed: int):
        super().__init__()
        self.steps, self.batch_size, self.clips, self.seed = steps, batch_size, clips, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.clips, index))
        clips, labels, cue = sequences(self.batch_size, self.clips, rng)
        counts = (np.arange(self.clips) >= cue[:, None]).astype("float32")
        return clips, np.repeat(labels[:, None], self.clips, axis=1), counts


def train(memory: bool, steps: int, seed: int) -> tuple[RecurrentVideoSwin, float]:
    """Returns a trained model, and how many seconds it took."""
    keras.utils.set_random_seed(seed)
    model = build(memory)
    schedule = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=2e-3, warmup_steps=steps // 20)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    start = time.perf_counter()
    for clips, batch_size, share in CURRICULUM:
        model.fit(Batches(round(share * steps), batch_size, clips, seed), shuffle=False)
    return model, time.perf_counter() - start


def accuracy_by_delay(model: RecurrentVideoSwin, delays: tuple[int, ...], count: int, seed: int) -> dict[int, float]:
    """Returns, for each number of clips since the cue, the share of sequences that are answered rightly."""
    clips, labels, cue = sequences(count, max(delays) + 3, np.random.default_rng(seed))
    step, state = model.step_model(), model.initial_state(count)
    inputs = [np.array(keras.ops.convert_to_numpy(x)) for part in state.values() for x in part.values()]
    answers = []
    for index in tqdm(range(clips.shape[1]), desc="clips", leave=False):
        logits, *inputs = step.predict_on_batch([clips[:, index], *inputs])
        answers.append(logits.argmax(-1))
    right = np.stack(answers, axis=1) == labels[:, None]
    return {delay: float(np.mean(right[np.arange(count), cue + delay])) for delay in delays}


def draw(results: dict[str, dict[int, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    for (name, accuracy), style in zip(results.items(), ("o-", "s--"), strict=True):
        axis.plot(list(accuracy), [100 * value for value in accuracy.values()], style, label=name)
    axis.axhline(100 / len(CLASSES), color="grey", linewidth=0.8)
    axis.text(DELAYS[-1], 100 / len(CLASSES) + 2, "chance", ha="right", color="grey")
    axis.axvspan(1, QUEUE, color="tab:blue", alpha=0.12, linewidth=0)
    axis.text(1.05, 60, "within\nthe queue", color="tab:blue", fontsize=8)
    axis.axvspan(QUEUE, 3 * QUEUE, color="tab:orange", alpha=0.12, linewidth=0)
    axis.text(QUEUE + 0.2, 60, "as in\ntraining", color="tab:orange", fontsize=8)
    axis.set_xscale("log")
    axis.set_xticks(DELAYS, DELAYS)
    axis.minorticks_off()
    axis.set_ylim(0, 104)
    axis.set_xlabel("clips since the cue")
    axis.set_ylabel("right answers (%)")
    axis.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures and the picture")
    parser.add_argument("--steps", type=int, default=1000, help="batches (default: %(default)s)")
    parser.add_argument("--count", type=int, default=400, help="sequences to measure on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of training (default: %(default)s)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"backend": keras.backend.backend(), "date": datetime.date.today().isoformat()}
    results = {}
    for name, memory in (("with memory", True), ("without memory", False)):
        model, seconds = train(memory, options.steps, options.seed)
        results[name] = accuracy_by_delay(model, DELAYS, options.count, HELD_OUT_SEED)
        report[name] = {"seconds": round(seconds), "accuracy_by_delay": results[name]}
        for delay, value in results[name].items():
            print(f"{name}, {delay:3} clips after the cue: {value:.1%}")
    with replacing(options.output / "delayed_cue.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    draw(results, options.output / "delayed_cue.png")


if __name__ == "__main__":
    main()
