"""The published formats: how each is recognised by its keys, and translated to the official layout."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from videoswin_keras.checkpoints import adaptation
from videoswin_keras.checkpoints.errors import CheckpointError
from videoswin_keras.checkpoints.layout import (
    MEMORY_ATTENTIONS,
    MEMORY_NORMS,
    TABLE,
    Architecture,
    State,
    from_keras,
    infer,
    window_of_index,
    windows_with_rows,
)
from videoswin_keras.nn import windows
from videoswin_keras.video.transforms import MEAN, STD

_log = logging.getLogger(__name__)

DEFAULT_WINDOW = (8, 7, 7)  # of every model inflated from an image Swin
PUBLISHED_WINDOWS = (DEFAULT_WINDOW, (16, 7, 7))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in the official layout.

    `normalization` says how clips are normalised for it, where that is not by ImageNet's mean and deviation; `file` is
    where it was read from, for messages.
    """

    format: str
    architecture: Architecture
    state: State = field(repr=False)
    normalization: str = field(default="", repr=False)
    file: str = field(default="", repr=False, compare=False)


def recognise(tensors: State, window_size: tuple[int, int, int] | None = None) -> Checkpoint:
    """Tells the format of `tensors` and translates them to the official layout.

    Args:
        tensors: What `files.read` returned.
        window_size: The window an image Swin is inflated to; default (8, 7, 7). The other formats have a window of
            their own; only where a checkpoint does not say which, and its bias tables fit this one, it is this one.

    Raises:
        CheckpointError: if the keys are of no known format, or the window can be told neither from the checkpoint nor
            from `window_size`.
    """
    tensors, normalization = _without_extras(tensors)
    name = next((name for name, (matches, _) in FORMATS.items() if matches(tensors)), None)
    if other := _other_architecture(tensors):
        raise CheckpointError(f"The checkpoint is of {other}, and not of a Video Swin Transformer.")
    if name is None:
        shown = ", ".join(list(tensors)[:5])
        raise CheckpointError(
            f"Not a Video Swin checkpoint of a known format ({', '.join(FORMATS)}). "
            f"Its {len(tensors)} keys begin: {shown}."
        )
    state = FORMATS[name][1](tensors)
    _check_numbers(state)
    buffers = {key: state.pop(key) for key in list(state) if key.endswith(("relative_position_index", "attn_mask"))}
    lengths = {int(key.removeprefix("memory").split(".")[0]): _length(state.pop(key)) for key in _lengths(state)}
    if name.startswith("image_swin"):
        window = window_size or DEFAULT_WINDOW
        state = adaptation.inflate(state, window)
    else:
        window = _window(state, buffers, window_size)
    if name == "keras_port" and window[1] != window[2]:
        raise CheckpointError(
            f"The window {window} is not square, and for such windows the older Keras ports mix up the rows of their "
            f"bias tables: the weights would give other outputs here than there."
        )
    return Checkpoint(name, infer(state, window, lengths), state, normalization)


# What trainers save among the weights that is no weight of the model, by patterns of its keys.
_EXTRAS = {
    "the mean and standard deviation of mmaction2's preprocessor": r"^data_preprocessor\.(mean|std)$",
    "a copy of the weights of mmcv's EMAHook": r"^ema_",
    "class weights of the loss": r"\bloss_cls\.class_weight$",
    "norms of stages before the last": r"^backbone\.norm[0-2]\.(weight|bias)$",
    "a count of averaged models": r"^(n_averaged|steps)$",
}


def _without_extras(tensors: State) -> tuple[State, str]:
    """Leaves away what is known to be no weight of the model, and says so; returns the rest, and the normalisation."""
    kept, normalization = dict(tensors), ""
    for what, pattern in _EXTRAS.items():
        if keys := [key for key in kept if re.search(pattern, key)]:
            found = {key.rpartition(".")[2]: kept.pop(key).ravel() for key in keys}
            _log.info("Left out: %s (%s).", what, ", ".join(keys[:3]))
            normalization = normalization or _normalization(found)
    return kept, normalization


def _normalization(found: State) -> str:
    """Returns the mean and the deviation of a preprocessor, "" where they are ImageNet's, or there is none."""
    unusual = [
        f"a {name} of {found[name].tolist()}"
        for name, usual in (("mean", MEAN), ("std", STD))
        if name in found and (found[name].size != 3 or not np.allclose(found[name], usual, atol=1e-2))
    ]
    if unusual:
        _log.warning(
            "The checkpoint was trained with %s; this library normalises clips by ImageNet's, %s and %s.",
            " and ".join(unusual),
            MEAN,
            STD,
        )
    return " and ".join(unusual)


def _other_architecture(tensors: State) -> str | None:
    """Returns what a checkpoint is of, where its keys tell that it is of a relative of Video Swin."""
    if any(key.endswith("logit_scale") or ".cpb_mlp." in key for key in tensors):
        return "a Swin Transformer V2 (it has logit_scale or cpb_mlp)"
    if any("spatial_mlp" in key for key in tensors):
        return "a SwinMLP (it has spatial_mlp)"
    if any(key.rpartition(".")[2] == "absolute_pos_embed" for key in tensors):
        return "a Swin with absolute position embeddings (absolute_pos_embed)"
    kernel = tensors.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 4 and _has_transposed_weights(tensors):
        return "an image Swin of PaddlePaddle (its matrices are transposed; convert Microsoft's own file)"
    return None


def _has_transposed_weights(tensors: State) -> bool:
    """Whether linear weights are as PaddlePaddle keeps them: inputs first."""
    shapes = [value.shape for key, value in tensors.items() if key.endswith("attn.qkv.weight") and value.ndim == 2]
    return bool(shapes) and shapes[0][1] == 3 * shapes[0][0]


def _check_numbers(state: State) -> None:
    counted = ("relative_position_index", "attn_mask", "window_size", "memory_length")
    wrong = [f"{key} ({value.dtype})" for key, value in state.items() if value.dtype != "float32"]
    if wrong := [text for text in wrong if not text.rpartition(" ")[0].endswith(counted)]:
        raise CheckpointError(
            f"The checkpoint holds weights that are no floating-point numbers: {', '.join(wrong[:10])}. Is the model "
            f"quantised? Save its weights before it is."
        )


def _window(state: State, buffers: State, stated: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Returns the window of a 3D checkpoint: what it saved, else the stated or a published one of as many rows."""
    rows = Counter(len(value) for key, value in state.items() if key.endswith(TABLE) and value.ndim == 2)
    if not rows:
        raise CheckpointError("The checkpoint has no relative position bias tables. Is the file complete?")
    most = rows.most_common(1)[0][0]
    stored = [state.pop(key) for key in list(state) if key.endswith("window_size")]
    saved = {windows.check_sides("window_size", sides) for sides in stored}
    saved |= {window_of_index(index, most) for index in _distinct(buffers)}
    if len(saved) > 1:
        raise CheckpointError(f"The checkpoint's blocks have different windows: {sorted(saved)}. One is supported.")
    candidates = [*saved] or [*([stated] if stated else []), *PUBLISHED_WINDOWS]
    for window in candidates:
        if saved or windows.num_relative_positions(window) == most:
            return window
    raise CheckpointError(
        f"The checkpoint does not say its window, and {most} rows of a bias table fit many: "
        f"{', '.join(map(str, windows_with_rows(most)[:5]))}, …. Build the model with the right one and use "
        "`load_checkpoint`, or pass it as `window_size` to `convert`."
    )


def _lengths(state: State) -> list[str]:
    return [key for key in state if re.fullmatch(r"memory\d\d?\.memory_length", key)]


def _length(value: np.ndarray) -> int:
    if value.size != 1 or value.dtype.kind not in "iu" or not 1 <= value.item() <= 10_000:
        raise CheckpointError(f"The clips in a memory's queue must be a number from 1 to 10,000. Received: {value}.")
    return value.item()


def _distinct(buffers: State) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for key, value in buffers.items():
        if key.endswith("relative_position_index") and not any(np.array_equal(value, other) for other in found):
            found.append(value)
    return found


def _rename(state: State, *patterns: tuple[str, str | Callable]) -> State:
    """Returns `state` with each pattern of a whole key replaced, the first that matches."""
    renamed: State = {}
    for key, value in state.items():
        name = next((re.sub(old, new, key) for old, new in patterns if re.search(old, key)), key)
        if name in renamed:
            raise CheckpointError(f"The checkpoint holds {name} twice, under two names.")
        renamed[name] = value
    return renamed


# --- official, mmaction2 ----------------------------------------------------------------------------------------


def _is_official(state: State) -> bool:
    return (any(key.startswith("backbone.layers.") for key in state) or _is_bare(state)) and not _is_paddlevideo(state)


def _is_mmaction2(state: State) -> bool:
    return _is_official(state) and any(re.match(r"(backbone\.)?norm3\.", key) for key in state)


def _is_bare(state: State) -> bool:
    """Whether it is a backbone of 3D patches whose keys lack "backbone."."""
    kernel = state.get("patch_embed.proj.weight")
    return kernel is not None and kernel.ndim == 5 and any(key.startswith("layers.0.blocks.") for key in state)


def _with_backbone(state: State) -> State:
    return _rename(state, (r"^(patch_embed|layers|norm3?)\.", r"backbone.\g<0>"))


def _from_official(state: State) -> State:
    return _rename(_with_backbone(state), (r"^backbone\.norm3\.", "backbone.norm."))  # mmaction2's only difference


# --- torchvision swin3d -----------------------------------------------------------------------------------------


def _is_torchvision(state: State) -> bool:
    return "features.0.0.norm1.weight" in state and "patch_embed.proj.weight" in state


def _from_torchvision(state: State) -> State:
    return _torchvision_names(state, first_stage=0)


def _torchvision_names(state: State, first_stage: int) -> State:
    """torchvision numbers stages and mergings in turn, from `first_stage`."""

    def stage(match: re.Match) -> str:
        tail = match[3].replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        return f"backbone.layers.{(int(match[1]) - first_stage) // 2}.blocks.{match[2]}.{tail}"

    def merging(match: re.Match) -> str:
        return f"backbone.layers.{(int(match[1]) - first_stage) // 2}.downsample.{match[2]}"

    return _rename(
        state,
        (r"^features\.(\d+)\.(\d+)\.(.+)$", stage),
        (r"^features\.(\d+)\.((?:norm|reduction)\..+)$", merging),
        (r"^head\.", "cls_head.fc_cls."),
        (r"^", "backbone."),
    )


# --- PaddleVideo ------------------------------------------------------------------------------------------------


def _is_paddlevideo(state: State) -> bool:
    is_video = "backbone.patch_embed.proj.weight" in state or _is_bare(state)
    return is_video and ("head.fc.weight" in state or _has_transposed_weights(state))


def _from_paddlevideo(state: State) -> State:
    """Every linear weight is transposed; the convolution is as it is."""
    renamed = _rename(_with_backbone(state), (r"^head\.fc\.", "cls_head.fc_cls."))
    return {key: value.T if key.endswith(".weight") and value.ndim == 2 else value for key, value in renamed.items()}


# --- Keras: this library, and the two older ports (which share one layout) --------------------------------------


def _keras_names(paths: dict[str, tuple[str, ...]], state: State, stage: str, block: str) -> State:
    """Translates HDF5 paths. Keras numbers layers of one class: `name`, `name_1`, `name_2`, …."""

    def number(suffix: str | None) -> int:
        return int(suffix) if suffix else 0

    renamed: State = {}
    for path, value in state.items():
        key = path.removeprefix("layers/video_swin_backbone/").removeprefix("layers/")
        where, _, variable = key.rpartition("/vars/")
        prefix = ""
        if match := re.match(rf"{stage}(?:_(\d+))?/blocks/{block}(?:_(\d+))?/(.+)$", where):
            prefix, where = f"backbone.layers.{number(match[1])}.blocks.{number(match[2])}.", "block/" + match[3]
        elif match := re.match(rf"(?:{stage}(?:_(\d+))?/downsample|patch_merging(?:_(\d+))?)/(.+)$", where):
            prefix, where = f"backbone.layers.{number(match[1] or match[2])}.downsample.", "merging/" + match[3]
        names = paths.get(where, ())
        if variable == "window_size":
            renamed[f"{prefix}window_size"] = value
        elif variable.isdigit() and int(variable) < len(names):
            official = prefix + names[int(variable)]
            renamed[official] = from_keras(official, value)
        else:
            renamed[path] = value  # reported as unexpected later
    return renamed


def _both(name: str) -> tuple[str, str]:
    return (f"{name}.weight", f"{name}.bias")


_OWN_PATHS = {
    "dense": _both("cls_head.fc_cls"),
    "layer_normalization": _both("backbone.norm"),
    "patch_embedding": _both("backbone.patch_embed.proj"),
    "patch_embedding/norm": _both("backbone.patch_embed.norm"),
    "merging/norm": _both("norm"),
    "merging/reduction": ("reduction.weight",),
    "block/attention_norm": _both("norm1"),
    "block/attention": (TABLE,),
    "block/attention/qkv": _both("attn.qkv"),
    "block/attention/projection": _both("attn.proj"),
    "block/mlp_norm": _both("norm2"),
    "block/mlp_expansion": _both("mlp.fc1"),
    "block/mlp_projection": _both("mlp.fc2"),
}
_WRAPPED = r"^layers/video_swin_(?:classifier|backbone)/(?=layers/)"
_MEMORY_PATHS = {
    "": ("gate", "age_scale", "tokens"),
    **{name: _both(name) for name in MEMORY_NORMS},
    **{
        f"{attention}/{name}": _both(f"{attention}.{name}")
        for attention in MEMORY_ATTENTIONS
        for name in ("query", "key_value", "projection")
    },
}
_PORT_PATHS = {
    "dense": _both("cls_head.fc_cls"),
    "layer_normalization": _both("backbone.norm"),
    "video_swin_patching_and_embedding/layers/conv3d": _both("backbone.patch_embed.proj"),
    "video_swin_patching_and_embedding/layers/layer_normalization": _both("backbone.patch_embed.norm"),
    "merging/norm": _both("norm"),
    "merging/reduction": ("reduction.weight",),
    "block/layers/layer_normalization": _both("norm1"),
    "block/layers/layer_normalization_1": _both("norm2"),
    "block/attn": (TABLE,),
    "block/attn/layers/dense": _both("attn.qkv"),
    "block/attn/layers/dense_1": _both("attn.proj"),
    "block/layers/mlp/fc1": _both("mlp.fc1"),
    "block/layers/mlp/fc2": _both("mlp.fc2"),
}


def _is_own(state: State) -> bool:
    return any("video_swin_stage/" in key for key in state)


def _from_own(state: State) -> State:
    """A model with a memory holds the model without it among its layers, beside the memories."""
    memories = {key: value for key, value in state.items() if key.startswith("layers/feedback_attention_memory")}
    others = {key: value for key, value in state.items() if key not in memories and not key.endswith("/vars/seed")}
    rest = {re.sub(_WRAPPED, "", key): value for key, value in others.items()}
    renamed = _keras_names(_OWN_PATHS, rest, "video_swin_stage", "video_swin_block")
    return renamed | _memory_names(memories, len(renamed.get("backbone.patch_embed.proj.bias", ())))


def _memory_names(state: State, embed_dim: int) -> State:
    """Names each memory after its stage, which its channels tell."""
    stages = {
        path.split("/")[1]: (len(value) // max(embed_dim, 1)).bit_length()
        for path, value in state.items()
        if re.fullmatch(r"layers/\w+/vars/0", path)
    }
    renamed: State = {}
    for path, value in state.items():
        _, layer, *where, _, index = path.split("/")
        names = _MEMORY_PATHS.get("/".join(where), ())
        if layer in stages and index.isdigit() and int(index) < len(names):
            key = f"memory{stages[layer]}.{names[int(index)]}"
            renamed[key] = from_keras(key, value)
        elif layer in stages and index == "memory_length" and not where:
            renamed[f"memory{stages[layer]}.memory_length"] = value
        else:
            renamed[path] = value
    return renamed


def is_keras_port(names: Iterable[str]) -> bool:
    return any("video_swin_basic_layer/" in name for name in names)


def _from_keras_port(state: State) -> State:
    return _keras_names(_PORT_PATHS, state, "video_swin_basic_layer", "video_swin_transformer_block")


# --- image Swin -------------------------------------------------------------------------------------------------


def _is_image(state: State) -> bool:
    kernel = state.get("patch_embed.proj.weight")
    return kernel is not None and kernel.ndim == 4 and "layers.0.blocks.0.norm1.weight" in state


def _is_timm(state: State) -> bool:
    return _is_image(state) and "layers.0.downsample.reduction.weight" not in state


def _from_timm(state: State) -> State:
    """timm counts a merging with the stage after it."""
    state = _without_image_head(state)
    return _rename(
        state,
        (r"^layers\.(\d+)\.downsample\.", lambda match: f"backbone.layers.{int(match[1]) - 1}.downsample."),
        (r"^", "backbone."),
    )


def _from_microsoft(state: State) -> State:
    return _rename(_without_image_head(state), (r"^", "backbone."))


def _is_torchvision_image(state: State) -> bool:
    return "features.0.0.weight" in state and "features.1.0.norm1.weight" in state


def _from_torchvision_image(state: State) -> State:
    embedding = ((r"^features\.0\.0\.", "patch_embed.proj."), (r"^features\.0\.2\.", "patch_embed.norm."))
    return _torchvision_names(_rename(_without_image_head(state), *embedding), first_stage=1)


def _without_image_head(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


# The order matters where one format's test would also accept another's keys.
FORMATS: dict[str, tuple[Callable[[State], bool], Callable[[State], State]]] = {
    "videoswin_keras": (_is_own, _from_own),
    "keras_port": (is_keras_port, _from_keras_port),
    "paddlevideo": (_is_paddlevideo, _from_paddlevideo),
    "mmaction2": (_is_mmaction2, _from_official),
    "official": (_is_official, _from_official),
    "torchvision": (_is_torchvision, _from_torchvision),
    "image_swin_timm": (_is_timm, _from_timm),
    "image_swin_microsoft": (_is_image, _from_microsoft),
    "image_swin_torchvision": (_is_torchvision_image, _from_torchvision_image),
}
