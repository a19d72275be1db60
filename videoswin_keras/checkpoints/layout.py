"""The official key layout, which every source format is translated to, and the architecture it implies.

A state maps official keys (`backbone.layers.0.blocks.1.attn.qkv.weight`) to float32 arrays in PyTorch's layout.
Every parameter of every supported architecture is enumerated in one place, `parameters`: from it follow the
shapes a checkpoint must have and the variables its values go to.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.nn import windows

State = dict[str, np.ndarray]

PATCH_KERNEL = "backbone.patch_embed.proj.weight"
HEAD_KEYS = ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
MEMORY_NORMS = ("read_norm", "queue_norm", "query_norm", "clip_norm", "feedback_norm", "summary_norm")
MEMORY_ATTENTIONS = ("read_attention", "write_attention")
TABLE = "attn.relative_position_bias_table"


@dataclass(frozen=True)
class Architecture:
    """What determines the parameters of a model. `num_classes` is None where there is no head.

    `memory` holds (stage, summary tokens, clips in the queue) of each memory; the last shapes no parameter.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: tuple[int, int, int]
    patch_size: tuple[int, int, int] = (2, 4, 4)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    channels: int = 3
    num_classes: int | None = None
    memory: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, model: Any) -> Self:
        """Returns the architecture of a `VideoSwinBackbone`, `VideoSwinClassifier` or `RecurrentVideoSwin`."""
        memories = getattr(model, "memories", {})
        model = model.model if memories else model
        backbone = getattr(model, "backbone", model)
        arguments = getattr(backbone, "arguments", None)
        if arguments is None:
            raise TypeError(
                "A checkpoint is loaded into a VideoSwinBackbone, VideoSwinClassifier or RecurrentVideoSwin. "
                f"Received: {type(model).__name__}. If one of them is a layer of your model, pass that layer."
            )
        return cls(
            **{name: arguments[name] for name in cls.__dataclass_fields__ if name in arguments},
            channels=arguments["input_shape"][-1],
            num_classes=None if model is backbone else model.arguments["num_classes"],
            memory=tuple(
                (int(stage.removeprefix("stage")), layer.num_tokens, layer.memory_length)
                for stage, layer in memories.items()
            ),
        )

    def backbone_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `VideoSwinBackbone` that this architecture fixes, but for `input_shape`."""
        arguments = asdict(self)
        for name in ("channels", "num_classes", "memory"):
            del arguments[name]
        return arguments

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every official key."""
        return {parameter.key: parameter.shape for parameter in parameters(self)}

    def describe(self) -> str:
        classes = "no head" if self.num_classes is None else f"{self.num_classes} classes"
        memories = "".join(f", memory of {tokens} tokens after stage {stage}" for stage, tokens, _ in self.memory)
        return (
            f"embed_dim={self.embed_dim}, depths={self.depths}, num_heads={self.num_heads}, "
            f"window_size={self.window_size}, {self.channels} channels, {classes}{memories}"
        )


@dataclass(frozen=True)
class Parameter:
    """One parameter: its official key, its shape there, and the attributes that lead to the Keras variable."""

    key: str
    shape: tuple[int, ...]
    layer: str  # name of a layer of the backbone, "head", or a memory
    attributes: str  # dotted, from that layer


def parameters(architecture: Architecture) -> Iterator[Parameter]:
    """Yields every parameter of `architecture`, in the order of the official code."""
    a = architecture
    dim = a.embed_dim

    def norm(key: str, size: int, layer: str, attributes: str) -> Iterator[Parameter]:
        yield Parameter(f"{key}.weight", (size,), layer, f"{attributes}gamma")
        yield Parameter(f"{key}.bias", (size,), layer, f"{attributes}beta")

    def linear(key: str, inputs: int, outputs: int, layer: str, attributes: str, bias: bool = True) -> Iterator:
        yield Parameter(f"{key}.weight", (outputs, inputs), layer, f"{attributes}kernel")
        if bias:
            yield Parameter(f"{key}.bias", (outputs,), layer, f"{attributes}bias")

    yield Parameter(PATCH_KERNEL, (dim, a.channels, *a.patch_size), "patch_embedding", "kernel")
    yield Parameter("backbone.patch_embed.proj.bias", (dim,), "patch_embedding", "bias")
    if a.patch_norm:
        yield from norm("backbone.patch_embed.norm", dim, "patch_embedding", "norm.")
    rows = windows.num_relative_positions(a.window_size)
    for i, (depth, heads) in enumerate(zip(a.depths, a.num_heads, strict=True)):
        stage, hidden = f"stage{i + 1}", int(dim * a.mlp_ratio)
        for j in range(depth):
            key, block = f"backbone.layers.{i}.blocks.{j}", f"blocks.{j}."
            yield from norm(f"{key}.norm1", dim, stage, f"{block}attention_norm.")
            yield Parameter(f"{key}.{TABLE}", (rows, heads), stage, f"{block}attention.relative_position_bias_table")
            yield from linear(f"{key}.attn.qkv", dim, 3 * dim, stage, f"{block}attention.qkv.", a.qkv_bias)
            yield from linear(f"{key}.attn.proj", dim, dim, stage, f"{block}attention.projection.")
            yield from norm(f"{key}.norm2", dim, stage, f"{block}mlp_norm.")
            yield from linear(f"{key}.mlp.fc1", dim, hidden, stage, f"{block}mlp_expansion.")
            yield from linear(f"{key}.mlp.fc2", hidden, dim, stage, f"{block}mlp_projection.")
        if i + 1 < len(a.depths):
            key, merging = f"backbone.layers.{i}.downsample", f"merging{i + 1}"
            yield from linear(f"{key}.reduction", 4 * dim, 2 * dim, merging, "reduction.", bias=False)
            yield from norm(f"{key}.norm", 4 * dim, merging, "norm.")
            dim *= 2
    yield from norm("backbone.norm", dim, "norm", "")
    if a.num_classes is not None:
        yield from linear("cls_head.fc_cls", dim, a.num_classes, "head", "")
    for number, tokens, _ in a.memory:  # no publisher has it: the keys are this library's
        key = layer = f"memory{number}"
        size = a.embed_dim * 2 ** (number - 1)
        for name, shape in (("gate", (size,)), ("age_scale", ()), ("tokens", (tokens, size))):
            yield Parameter(f"{key}.{name}", shape, layer, name)
        for name in MEMORY_NORMS:
            yield from norm(f"{key}.{name}", size, layer, f"{name}.")
        for attention in MEMORY_ATTENTIONS:
            for name, outputs in (("query", size), ("key_value", 2 * size), ("projection", size)):
                yield from linear(f"{key}.{attention}.{name}", size, outputs, layer, f"{attention}.{name}.")


def to_keras(key: str, value: np.ndarray) -> np.ndarray:
    """Turns a value from PyTorch's layout to Keras's: linear weights transposed, convolutions channels-last."""
    if key.endswith(".weight") and value.ndim == 2:
        return value.T
    return np.transpose(value, (*range(2, value.ndim), 1, 0)) if value.ndim > 2 else value


def from_keras(key: str, value: np.ndarray) -> np.ndarray:
    """Undoes `to_keras`."""
    if key.endswith(".weight") and value.ndim == 2:
        return value.T
    return np.transpose(value, (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))) if value.ndim > 2 else value


def infer(state: State, window_size: tuple[int, int, int], memory_lengths: dict[int, int]) -> Architecture:
    """Returns the architecture whose parameters `state` holds, from keys and shapes.

    Every number is what most of the tensors that depend on it say, so that one missing or misshapen tensor is
    reported as that and not as another architecture. `memory_lengths` are the clips in the queue of the memory after
    each stage that has one.

    Raises:
        CheckpointError: if nothing tells one of the numbers.
    """

    def vote(pattern: str, axis: int) -> int:
        sizes = Counter(value.shape[axis] for key, value in state.items() if re.search(pattern, key) and value.ndim)
        if not sizes:
            raise CheckpointError(f"No key of the checkpoint matches {pattern}. Is the file complete?")
        return sizes.most_common(1)[0][0]

    blocks: dict[int, int] = {}
    for key in state:
        if match := re.match(r"backbone\.layers\.(\d\d?)\.blocks\.(\d{1,3})\.", key):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    stages = range(max(blocks) + 1)
    kernel = state.get(PATCH_KERNEL)
    has_kernel = kernel is not None and kernel.ndim == 5 and min(kernel.shape) > 0
    embed_dim = vote(r"backbone\.patch_embed\.|backbone\.layers\.0\.blocks\.\d+\.norm[12]\.", 0)
    has_head = any(key in state for key in HEAD_KEYS)
    return Architecture(
        embed_dim=embed_dim,
        depths=tuple(blocks.get(i, 0) for i in stages),
        num_heads=tuple(vote(rf"backbone\.layers\.{i}\.blocks\.\d+\.{re.escape(TABLE)}$", -1) for i in stages),
        window_size=window_size,
        patch_size=kernel.shape[2:] if has_kernel else Architecture.patch_size,  # type: ignore[union-attr]
        mlp_ratio=vote(r"backbone\.layers\.0\.blocks\.\d+\.mlp\.fc1\.", 0) / embed_dim,
        qkv_bias=any(key.endswith("attn.qkv.bias") for key in state),
        patch_norm=any(key.startswith("backbone.patch_embed.norm") for key in state),
        channels=kernel.shape[1] if has_kernel else Architecture.channels,  # type: ignore[union-attr]
        num_classes=vote("|".join(map(re.escape, HEAD_KEYS)), 0) if has_head else None,
        memory=_memories(state, memory_lengths),
    )


def _memories(state: State, lengths: dict[int, int]) -> tuple[tuple[int, int, int], ...]:
    tokens = {int(match[1]): len(state[key]) for key in state if (match := re.fullmatch(r"memory(\d\d?)\.tokens", key))}
    if tokens.keys() - lengths.keys():
        raise CheckpointError("The checkpoint has a memory, and does not say of how many clips. Is the file complete?")
    memories = tuple((stage, tokens[stage], lengths[stage]) for stage in sorted(tokens))
    if len({(tokens, length) for _, tokens, length in memories}) > 1:
        raise CheckpointError(f"The memories differ in their tokens or lengths: {memories}.")
    return memories


def window_of_index(index: np.ndarray, rows: int) -> tuple[int, int, int]:
    """Returns the window whose `relative_position_index` buffer is `index`, for a table of `rows` rows.

    Raises:
        CheckpointError: if it is no window's: the model that wrote it computes something else.
    """
    for window in windows_with_rows(rows):
        if math.prod(window) ** 2 == index.size:
            expected = windows.relative_position_index(window)
            if np.array_equal(expected, index.reshape(expected.shape)):
                return window
    raise CheckpointError(
        f"The checkpoint's relative_position_index of shape {index.shape}, beside a bias table of {rows} rows, is not "
        "that of a Video Swin window: loading its table would give other outputs than its own model gives."
    )


def windows_with_rows(rows: int) -> list[tuple[int, int, int]]:
    """Returns the windows whose bias table has `rows` rows, square ones first, then the largest height."""
    found: list[tuple[int, int, int]] = []
    for spatial in _divisors(rows):
        for width in _divisors(rows // spatial):
            frames = rows // spatial // width
            if spatial % 2 and width % 2 and frames % 2:
                found.append(((frames + 1) // 2, (spatial + 1) // 2, (width + 1) // 2))
    return sorted(found, key=lambda window: (window[1] != window[2], -window[1]))


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
