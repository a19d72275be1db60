"""What a user waits for: `videoswin classify` on a video of ten seconds, from the start of the process, part by part.

    python benchmarks/cold_start.py

Tiny with weights of its own on disk, 320 × 240 pixels at 30 frames per second, one view. Each round is a new process.
"""

import functools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, in_each_backend, write_table

PARTS = ("import", "build", "load", "decode", "run", "the rest")


def classify(video: str, weights: str, began: float) -> None:
    """Runs the command, and prints what each part took; `began` is when the process was started."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.time() - start

        setattr(owner, name, wrapper)

    sys.path.insert(0, str(ROOT))
    from videoswin_keras import classification
    from videoswin_keras.cli.main import command
    from videoswin_keras.models import conversion
    from videoswin_keras.video import protocols

    spent["import"] = time.time() - began
    timed(classification, "build", "build")  # with its weights
    timed(conversion, "assign", "load")
    timed(protocols.Protocol, "views", "decode")
    timed(classification.VideoPipeline, "probabilities", "run")
    sys.argv[1:] = ["classify", video, "--weights", weights]
    if code := command():
        raise SystemExit(code)
    spent["build"] -= spent["load"]
    spent["the rest"] = time.time() - began - sum(spent.values())
    print(f"spent: {' '.join(str(spent[part]) for part in PARTS)}")


def measure(rounds: int) -> dict[str, float]:
    """Returns the median seconds of each part, and of the whole until the process has ended."""
    sys.path.insert(0, str(ROOT))
    from videoswin_keras import VideoSwinT
    from videoswin_keras.data.synthetic import moving_shape
    from videoswin_keras.video.encode import write_video

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        video, weights = Path(folder, "video.mp4"), Path(folder, "tiny.weights.h5")
        write_video(video, moving_shape(0, seed=0, frames=300, size=(240, 320)), 30)
        VideoSwinT(num_classes=400).save_weights(weights)
        for _ in range(rounds):
            began = time.time()
            command = [sys.executable, __file__, "--classify", str(video), str(weights), str(began)]
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            line = next(line for line in result.stdout.splitlines() if line.startswith("spent: "))
            for part, seconds in zip(PARTS, line.split()[1:], strict=True):
                found.setdefault(part, []).append(float(seconds))
            found.setdefault("whole", []).append(time.time() - began)
    return {part: statistics.median(seconds) for part, seconds in found.items()}


def main() -> None:
    if sys.argv[1:2] == ["--classify"]:
        classify(sys.argv[2], sys.argv[3], float(sys.argv[4]))
        return
    if measured := in_each_backend(__file__, measure, rounds=5):
        found, folder = measured
        parts = (*PARTS, "whole")
        lines = [f"| seconds | {' | '.join(parts)} |", f"|---|{'---|' * len(parts)}"]
        lines += [
            f"| {backend} | {' | '.join(f'{one[part]:.2f}' for part in parts)} |" for backend, one in found.items()
        ]
        what = "`videoswin classify` with Tiny on ten seconds of video, from the start of the process to its end."
        write_table(folder / "cold_start.md", what, "\n".join(lines))


if __name__ == "__main__":
    main()
