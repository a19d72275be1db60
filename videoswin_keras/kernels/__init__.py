"""The operations of the models that some backend computes faster, or in less memory, than `keras.ops` does.

`plain.py` defines each operation. This table holds the version that `dispatch.py` chose for the backend.
"""

from videoswin_keras.kernels import attention, chunks
from videoswin_keras.kernels.attention import attention_weights, window_bytes
from videoswin_keras.kernels.chunks import whole
from videoswin_keras.kernels.dispatch import native, operation, plain_only

linear = operation("linear")
linear_gelu = operation("linear_gelu")
gelu = operation("gelu")
layer_normalization = operation("layer_normalization")
window_attention = operation("window_attention", attention.window_attention)
window_attention_in_training = operation("window_attention_in_training", attention.window_attention_in_training)
cross_attention = operation("cross_attention", attention.cross_attention)
over_windows = operation("over_windows", chunks.over_windows)
over_tokens = operation("over_tokens", chunks.over_tokens)
add_branch = operation("add_branch")
recompute = operation("recompute")
recompute_cheap = operation("recompute_cheap")
with_adjoint = operation("with_adjoint")
after = operation("after")
give_back_after_compilations = operation("give_back_after_compilations")
without_gradients = operation("without_gradients")
has_values = operation("has_values")

# Functions that `keras.ops` has no words for; None where the backend has none.
gradient = native("gradient")
can_fuse_adam = native("can_fuse_adam")
fused_adam = native("fused_adam")
FUSED_ADAM_DECAYS = bool(native("FUSED_ADAM_DECAYS"))
add_in_place = native("add_in_place")

__all__ = [
    "FUSED_ADAM_DECAYS",
    "add_branch",
    "add_in_place",
    "after",
    "attention_weights",
    "can_fuse_adam",
    "cross_attention",
    "fused_adam",
    "gelu",
    "give_back_after_compilations",
    "gradient",
    "has_values",
    "layer_normalization",
    "linear",
    "linear_gelu",
    "over_tokens",
    "over_windows",
    "plain_only",
    "recompute",
    "recompute_cheap",
    "whole",
    "window_attention",
    "window_attention_in_training",
    "window_bytes",
    "with_adjoint",
    "without_gradients",
]
