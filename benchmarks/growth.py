"""How the time of Tiny grows with the frames, the side and the number of clips, with the exponent of each.

    python benchmarks/growth.py

Frames from 8 to 128 and sides from 112 to 448 about 32 × 224 × 224, one clip; batches of 1 to 16 of 16 × 112 × 112.
"""

import functools
import sys
from pathlib import Path

import numpy as np
from common import ROOT, in_each_backend, seconds

AXES = {
    "frames": [(frames, 224, 1) for frames in (8, 16, 32, 64, 128)],
    "side": [(32, side, 1) for side in (112, 160, 224, 320, 448)],
    "batch": [(16, 112, batch) for batch in (1, 2, 4, 8, 16)],
}
PLACE = {"frames": 0, "side": 1, "batch": 2}


def measure(rounds: int) -> dict[str, list[float]]:
    sys.path.insert(0, str(ROOT))
    from videoswin_keras import VideoSwinT

    found: dict[str, list[float]] = {}
    for axis, cases in AXES.items():
        for frames, side, batch in cases:
            model = VideoSwinT((frames, side, side, 3), num_classes=400)
            clips = np.zeros((batch, frames, side, side, 3), "float32")
            predict = functools.partial(model.predict_on_batch, clips)
            found.setdefault(axis, []).append(seconds(predict, rounds))
    return found


def exponent(sizes: list[int], taken: list[float]) -> float:
    """Returns b of the best fit `seconds = a · size ** b`."""
    return float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (axis, cases) in zip(figure.subplots(1, 3), AXES.items(), strict=True):
        sizes = [case[PLACE[axis]] for case in cases]
        for backend, taken in found.items():
            axes.loglog(sizes, taken[axis], "o-", label=f"{backend}: {exponent(sizes, taken[axis]):.2f}")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel(f"{axis}, logarithmic")
        axes.set_ylabel("seconds, logarithmic")
        axes.legend(title="exponent", frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    if measured := in_each_backend(__file__, measure, rounds=3):
        found, folder = measured
        draw(found, folder / "growth.png")
        for axis, cases in AXES.items():
            sizes = [case[PLACE[axis]] for case in cases]
            print(axis, {backend: round(exponent(sizes, taken[axis]), 2) for backend, taken in found.items()})


if __name__ == "__main__":
    main()
