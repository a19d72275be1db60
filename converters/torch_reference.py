"""A live PyTorch model for any checkpoint: torchvision's Video Swin, which computes what the official code does.

PyTorch's CPU builds have no matching torchvision build. Its models are pure PyTorch, so the package is installed
without dependencies; two operators that its detection code registers are declared here, without which it does not
import.
"""

import re

import numpy as np
import torch
from torch import library

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for _name in ("nms", "qnms"):
        library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from videoswin_keras.checkpoints.formats import Checkpoint
from videoswin_keras.checkpoints.layout import State
from videoswin_keras.nn.windows import relative_position_index


def as_torchvision(state: State) -> State:
    """Renames the keys of the official layout to torchvision's; no value changes."""
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("backbone.").replace("cls_head.fc_cls.", "head.")
        key = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1]) + 1}", key)
        key = re.sub(r"^layers\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1])}", key)
        renamed[key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = value
    return renamed


def build(checkpoint: Checkpoint) -> torch.nn.Module:
    """Returns torchvision's model with the values of `checkpoint`, for inference.

    Takes (batch, channels, frames, height, width), normalised; gives logits, or pooled features where there is no
    head.
    """
    architecture = checkpoint.architecture
    model = SwinTransformer3d(
        patch_size=list(architecture.patch_size),
        embed_dim=architecture.embed_dim,
        depths=list(architecture.depths),
        num_heads=list(architecture.num_heads),
        window_size=list(architecture.window_size),
        mlp_ratio=architecture.mlp_ratio,
        num_classes=architecture.num_classes or 1,
        patch_embed=PatchEmbed3d,
        stochastic_depth_prob=0.0,
    )
    state = {key: torch.from_numpy(np.array(value)) for key, value in as_torchvision(checkpoint.state).items()}
    index = torch.from_numpy(relative_position_index(architecture.window_size).astype("int64"))
    # torchvision keeps the index flat.
    state |= {key: index.reshape(value.shape) for key, value in model.state_dict().items() if key.endswith("_index")}
    if architecture.num_classes is None:
        model.head = torch.nn.Identity()
    model.load_state_dict(state, strict=True)
    return model.eval()
