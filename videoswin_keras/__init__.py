"""Video Swin Transformer in Keras 3, on TensorFlow, JAX and PyTorch.

Tensors are (batch, frames, height, width, channels). Keras's own choice of backend (`KERAS_BACKEND`) applies.
"""

import importlib
import sys

from videoswin_keras.backend import choose_backend, is_command_line

__version__ = "0.1.0"

if not is_command_line():  # it imports what a verb needs, once the verb runs: `--help` needs no backend
    if "keras" not in sys.modules:  # once Keras is imported, its backend is decided
        choose_backend()
    from videoswin_keras.checkpoints.errors import CheckpointError
    from videoswin_keras.checkpoints.load import load_checkpoint
    from videoswin_keras.models.backbone import VideoSwinBackbone
    from videoswin_keras.models.classifier import VideoSwinClassifier
    from videoswin_keras.models.conversion import convert, from_checkpoint
    from videoswin_keras.models.recurrent import RecurrentVideoSwin
    from videoswin_keras.models.variants import VideoSwinB, VideoSwinL, VideoSwinS, VideoSwinT
    from videoswin_keras.nn.attention import WindowAttention
    from videoswin_keras.nn.block import VideoSwinBlock, VideoSwinStage
    from videoswin_keras.nn.layers import PatchEmbedding, PatchMerging, PixelNormalization
    from videoswin_keras.nn.memory import FeedbackAttentionMemory, FlatMemoryCell
    from videoswin_keras.training.optimizers import AdamW

__all__ = [
    "AdamW",
    "CheckpointError",
    "FeedbackAttentionMemory",
    "FlatMemoryCell",
    "PatchEmbedding",
    "PatchMerging",
    "PixelNormalization",
    "RecurrentVideoSwin",
    "VideoSwinB",
    "VideoSwinBackbone",
    "VideoSwinBlock",
    "VideoSwinClassifier",
    "VideoSwinL",
    "VideoSwinS",
    "VideoSwinStage",
    "VideoSwinT",
    "WindowAttention",
    "convert",
    "from_checkpoint",
    "load_checkpoint",
]

# Public too, and imported when they are asked for: some need the extras "video" and "stream".
_LATER = {
    "VideoPipeline": "videoswin_keras.classification",
    "VideoStream": "videoswin_keras.streaming.stream",
    "attention_maps": "videoswin_keras.explanation",
    "classify": "videoswin_keras.classification",
    "grad_cam": "videoswin_keras.explanation",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'videoswin_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_LATER, "__version__"])
