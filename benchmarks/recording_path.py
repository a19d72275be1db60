"""How many clips per second a stream classifies: one by one and in batches, and what the memory costs.

    python benchmarks/recording_path.py                    # Tiny, 32 × 224 × 224, on the backend of KERAS_BACKEND
    python benchmarks/recording_path.py --batch-size 8

Three streams take turns in one process, each over the same frames: Tiny without a memory one clip at a time, Tiny with
a memory one clip at a time, and the same in batches. The first round warms up and does not count.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import machine, positive
from tqdm import tqdm

from videoswin_keras import VideoSwinT
from videoswin_keras.atomic import replacing
from videoswin_keras.streaming.stream import VideoStream

SIDE, CLIP_FRAMES, STRIDE, FPS = 224, 32, 8, 4.0


def streams(batch_size: int) -> dict[str, VideoStream]:
    """Returns the streams that are compared, by name; all but the memory's weights are of the same shapes."""
    settings: dict[str, Any] = {"input_shape": (CLIP_FRAMES, SIDE, SIDE, 3), "num_classes": 3}
    alone = VideoSwinT(include_rescaling=True, **settings)
    remembering = VideoSwinT(include_rescaling=True, memory=True, **settings)

    def stream(model: keras.Model, batch: int) -> VideoStream:
        return VideoStream(model, FPS, CLIP_FRAMES, STRIDE, short_side=SIDE, crop=SIDE, batch_size=batch)

    return {
        "without a memory, one by one": stream(alone, 1),
        "with a memory, one by one": stream(remembering, 1),
        f"with a memory, {batch_size} at once": stream(remembering, batch_size),
    }


def measure(batch_size: int, clips: int, rounds: int) -> dict[str, Any]:
    frames = np.random.default_rng(0).integers(0, 256, (CLIP_FRAMES + STRIDE * (clips - 1), SIDE, SIDE, 3), "uint8")
    compared = streams(batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for number in tqdm(range(1 + rounds), "rounds", disable=None):
        for name, stream in compared.items():
            began = time.perf_counter()
            count = sum(1 for _ in stream((index / FPS, frame) for index, frame in enumerate(frames)))
            if count != clips:
                raise RuntimeError(f"{count} results, expected {clips}")
            if number:
                seconds[name].append((time.perf_counter() - began) / clips)
    alone, single, batched = (seconds[name] for name in compared)

    def ratio(over: list[float], under: list[float]) -> dict[str, float]:
        each = sorted(a / b for a, b in zip(over, under, strict=True))  # of the same round
        return {"median": round(statistics.median(each), 3), "least": round(each[0], 3), "most": round(each[-1], 3)}

    return {
        "model": "Tiny, 32 × 224 × 224, 3 classes",
        "seconds per clip": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "clips per second": {name: round(1 / statistics.median(values), 3) for name, values in seconds.items()},
        "with a memory over without, time": ratio(single, alone),
        "batched over one by one, clips per second": ratio(single, batched),
        "backend": keras.backend.backend(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=positive, default=4, help="clips at once (default: %(default)s)")
    parser.add_argument("--clips", type=positive, default=8, help="of each stream and round (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="that count (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    options = parser.parse_args()
    if options.clips % options.batch_size:  # what is left would be computed as a whole batch
        parser.error(f"--clips must be a multiple of --batch-size, {options.batch_size}. Received: {options.clips}.")
    report = measure(options.batch_size, options.clips, options.rounds)
    options.output.mkdir(parents=True, exist_ok=True)
    with replacing(options.output / f"recording_path_{report['backend']}.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
