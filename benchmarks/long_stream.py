"""How much memory a stream takes while hours of video go through it: a table in JSON, and a plot.

    python benchmarks/long_stream.py tiny     30 minutes of 224 × 224 pixels at 2 frames per second, Tiny with a memory
    python benchmarks/long_stream.py pico     24 hours of 64 × 64 pixels at 2 frames per second, a small model with one

The video is drawn and encoded first, and read back from its file. Memory is that of the whole process on Linux: the
resident set after each result, and the most it has ever been, within the computation too; on a GPU also the most that
tensors took there. Growth is that of the most.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import machine, peak_gpu_bytes
from tqdm import tqdm

from videoswin_keras import RecurrentVideoSwin, VideoSwinT, from_checkpoint
from videoswin_keras.atomic import replacing
from videoswin_keras.data.synthetic import moving_shape
from videoswin_keras.streaming.about import About
from videoswin_keras.streaming.recording import Recording
from videoswin_keras.streaming.run import Run
from videoswin_keras.streaming.stream import VideoStream
from videoswin_keras.video.encode import write_video

CASES: dict[str, dict[str, Any]] = {
    "tiny": {"hours": 0.5, "fps": 2.0, "side": 224, "clip_frames": 32, "batch_size": 1},
    "pico": {"hours": 24.0, "fps": 2.0, "side": 64, "clip_frames": 16, "batch_size": 4},
}


def model_of(case: str) -> keras.Model:
    if case == "tiny":
        return VideoSwinT((32, 224, 224, 3), num_classes=3, memory=True, include_rescaling=True)
    return RecurrentVideoSwin(from_checkpoint("pico_moving_shapes", include_rescaling=True))


def pictures(count: int, side: int) -> Iterator[np.ndarray]:
    """A few thousand frames of moving shapes, over and over: encoding and decoding take the time, not drawing."""
    drawn = np.concatenate([moving_shape(motion, seed=motion, frames=240, size=side) for motion in range(8)])
    for index in range(count):
        yield drawn[index % len(drawn)]


def memory_mb() -> tuple[float, float]:
    """Returns the memory of this process now, and at its highest since `forget_the_highest`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, highest = (int(lines[name].split()[0]) / 2**10 for name in ("VmRSS", "VmHWM"))
    return now, highest


def forget_the_highest() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(case: str, hours: float) -> dict[str, Any]:
    settings = CASES[case]
    fps, side = settings["fps"], settings["side"]
    samples: list[tuple] = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        frames = pictures(round(hours * 3600 * fps), side)
        write_video(video, tqdm(frames, "drawing", total=round(hours * 3600 * fps), disable=None), fps)
        model = model_of(case)
        stream = VideoStream(
            model,
            fps,
            settings["clip_frames"],
            short_side=side,
            crop=side,
            batch_size=settings["batch_size"],
            centred=True,
        )
        labels = tuple(f"class {index}" for index in range(stream.num_classes))
        run = Run(stream, Recording([video]), Path(folder) / "out", About(case, labels, "video.mp4", fps), {})
        every = max(1, round(hours * 3600 * fps / stream.stride / 1000))  # else the list of samples were what grows
        forget_the_highest()  # what drawing the video took
        began = time.monotonic()
        with tqdm(total=round(hours * 3600), unit="s", disable=None) as bar:
            for number, result in enumerate(run.results()):
                bar.update(round(result.end) - bar.n)
                if number % every == 0:
                    samples.append(
                        (result.end, time.monotonic() - began, *memory_mb(), peak_gpu_bytes(keras.backend.backend()))
                    )
        run.finish()
        _, after_files = memory_mb()
    _, seconds, _, highest, gpu = zip(*samples, strict=True)
    first_minute = [value for value, at in zip(highest, seconds, strict=True) if at <= seconds[0] + 60]
    return {
        "case": case,
        "hours of video": hours,
        "results": number + 1,
        "seconds": round(seconds[-1], 1),
        "peak in the first minute, MB": round(first_minute[-1], 1),
        "peak at the end, MB": round(highest[-1], 1),
        "growth": round(highest[-1] / first_minute[-1] - 1, 4),
        "peak after writing the files, MB": round(after_files, 1),
        "gpu growth": round(gpu[-1] / gpu[len(first_minute) - 1] - 1, 4) if gpu[0] else None,
        "backend": keras.backend.backend(),
        "machine": machine(),
        "samples (hours, MB now, MB at most)": [
            (round(end / 3600, 4), round(now, 1), round(most, 1)) for end, _, now, most, _ in samples
        ],
    }


def draw(reports: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, report in zip(figure.subplots(1, len(reports), squeeze=False)[0], reports, strict=True):
        hours, now, most = zip(*report["samples (hours, MB now, MB at most)"], strict=True)
        axes.plot(hours, most, label="at most so far")
        axes.plot(hours, now, label="after each result")
        axes.set_ylim(0, 1.25 * max(most))
        axes.legend(frameon=False, loc="lower right")
        axes.set_xlabel("hours of video")
        axes.set_ylabel("process memory, MB")
        axes.set_title(f"{report['case']} with a memory, {report['backend']}", loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--hours", type=float, help="of video (default: as above)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for case in options.cases:
        report = measure(case, options.hours or CASES[case]["hours"])
        with replacing(options.output / f"long_stream_{case}.json") as temporary:
            temporary.write_text(json.dumps(report) + "\n")
        print({name: value for name, value in report.items() if not name.startswith("samples")})
    files = [options.output / f"long_stream_{case}.json" for case in CASES]
    draw([json.loads(file.read_text()) for file in files if file.exists()], options.output / "long_stream.png")


if __name__ == "__main__":
    main()
