"""How near each stage of a model comes to what the machine can do.

    python benchmarks/floor.py            # Tiny, 32 × 224 × 224, batch 1, float32, every backend installed

The floor of a stage is its multiply-adds over the rate of one large product, by the function that the model's dense
layers call, in the same run: the time it would take if nothing but the products cost anything. Each backend runs in a
process of its own.
"""

import functools
from typing import Any

import numpy as np
from common import in_each_backend, product_rate, seconds, write_table


def measure(rounds: int) -> dict[str, Any]:
    rate = product_rate(3 * rounds)
    import keras

    from videoswin_keras import VideoSwinT
    from videoswin_keras.models.cost import multiply_adds

    block = np.ones(2**26, "float32")
    target = np.empty_like(block)
    found: dict[str, Any] = {
        "multiply-adds per second": rate,
        "copied bytes per second": block.nbytes / seconds(lambda: np.copyto(target, block), rounds),
    }
    model = VideoSwinT(num_classes=400)
    costs = multiply_adds(model)
    parts = {}
    for name in costs:
        layer = (model if name == "predictions" else model.backbone).get_layer(name)
        inputs = np.random.default_rng(1).normal(size=(1, *layer.input.shape[1:])).astype("float32")
        alone = keras.Model(layer.input, layer.output)
        parts[name] = seconds(functools.partial(alone.predict_on_batch, inputs), rounds)
    clip = np.zeros((1, *model.input_shape[1:]), "float32")
    parts["whole"] = seconds(lambda: model.predict_on_batch(clip), rounds)
    costs["whole"] = sum(costs.values())
    found["parts"] = {name: {"multiply-adds": costs[name], "seconds": parts[name]} for name in parts}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    heads = [
        f"{backend} ({one['multiply-adds per second'] / 1e9:.0f} G/s, "
        f"copies {one['copied bytes per second'] / 1e9:.1f} GB/s)"
        for backend, one in found.items()
    ]
    lines = [f"| | G multiply-adds | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    first = next(iter(found.values()))
    for name, part in first["parts"].items():
        cells = []
        for one in found.values():
            taken = one["parts"][name]["seconds"]
            floor = part["multiply-adds"] / one["multiply-adds per second"]
            cells.append(f"{taken * 1e3:,.0f} ms, {floor / taken:.0%}")
        lines.append(f"| {name} | {part['multiply-adds'] / 1e9:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    if measured := in_each_backend(__file__, measure, rounds=5):
        found, folder = measured
        what = (
            "Tiny, one clip of 32 × 224 × 224, float32: what each stage takes, and the share of it that its products "
            "would take at the rate of large matrices, measured in the same process."
        )
        write_table(folder / "floor.md", what, table(found))


if __name__ == "__main__":
    main()
