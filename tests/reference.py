"""The reference: what the official PyTorch code computes, in float64, for seeded stand-in weights and clips.

`data/reference/manifests` holds the keys and shapes of the official checkpoints, `expected` the outputs. Weights
and clips are drawn from generators seeded with the CRC-32 of a name, so nothing large has to be shipped.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoswin_keras.nn.windows import relative_position_index

DATA = Path(__file__).parent / "data" / "reference"


@dataclass(frozen=True)
class Case:
    """One clip through one model: `name` is `<manifest>.<batch>x<frames>x<height>x<width>`."""

    name: str

    @property
    def manifest(self) -> str:
        return self.name.rpartition(".")[0]

    def clip(self) -> np.ndarray:
        sizes = [int(size) for size in self.name.rpartition(".")[2].split("x")]
        return seeded_video(self.name, (*sizes, 3))

    def expected(self) -> dict[str, np.ndarray]:
        with np.load(DATA / "expected" / f"{self.name}.npz") as arrays:
            return dict(arrays)


def cases(prefixes: list[str]) -> list[Case]:
    """Returns the cases whose names begin with one of `prefixes`; an error if there are none."""
    found = [Case(path.stem) for prefix in prefixes for path in sorted((DATA / "expected").glob(f"{prefix}*.npz"))]
    assert found, f"no reference case begins with {prefixes}"
    return found


def manifest(name: str) -> dict:
    return json.loads((DATA / "manifests" / f"{name}.json").read_text())


def other_manifest(name: str) -> dict:
    return json.loads((DATA / "other_manifests" / f"{name}.json").read_text())


def official_state(name: str) -> dict[str, np.ndarray]:
    """Returns the seeded official state dict of a manifest: parameters and relative-position buffers."""
    content = manifest(name)
    state = {key: seeded_tensor(key, shape) for key, shape in content["parameters"].items()}
    index = relative_position_index(tuple(content["architecture"]["window_size"])).astype("int64")
    return {**state, **dict.fromkeys(content["buffers"], index)}


def seeded_tensor(key: str, shape: list[int]) -> np.ndarray:
    """Returns the float32 array that stands in for the tensor `key`, scaled so that every part of a model matters."""
    draw = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if key.endswith("relative_position_bias_table"):
        return draw
    if "norm" in key:
        return 1 + 0.2 * draw if key.endswith("weight") else 0.2 * draw
    if key.endswith("bias"):
        return 0.1 * draw
    return draw / np.float32(np.sqrt(np.prod(shape[1:])))


def seeded_video(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a float32 clip (batch, frames, height, width, channels): coarse blocks plus noise."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    batch, frames, height, width, channels = shape
    coarse = (batch, -(-frames // 4), -(-height // 16), -(-width // 16), channels)
    blocks = rng.standard_normal(coarse, dtype=np.float32)
    for axis, repeats in ((1, 4), (2, 16), (3, 16)):
        blocks = np.repeat(blocks, repeats, axis=axis)
    noise = rng.standard_normal(shape, dtype=np.float32)
    return blocks[:, :frames, :height, :width] + np.float32(0.5) * noise
