"""Multiply-adds against the published figures, and against what a count of every product gives."""

import numpy as np
import pytest

from videoswin_keras import VideoSwinB, VideoSwinS, VideoSwinT
from videoswin_keras.models.cost import multiply_adds


@pytest.mark.one_backend
@pytest.mark.parametrize(("build", "published"), [(VideoSwinT, 88e9), (VideoSwinS, 166e9), (VideoSwinB, 282e9)])
def test_published_figures(build, published):
    """Table 1 of arXiv 2106.13230, of clips of 32 × 224 × 224."""
    counts = multiply_adds(build(num_classes=400))
    assert sum(counts.values()) == pytest.approx(published, rel=0.006)


@pytest.mark.one_backend
def test_every_product_is_counted(monkeypatch):
    """Odd sizes, windows smaller and larger than the clip: PyTorch's own counter sees the same products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from videoswin_keras.kernels import torch as torch_kernels

    small = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
    model = VideoSwinT((None, None, None, 3), num_classes=5, **small)
    size = (5, 41, 30)
    # Fused products are not counted, nor those of oneDNN.
    monkeypatch.setattr(torch_kernels, "takes_wide_linear", lambda x: False)
    products = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with products, FlopCounterMode(display=False) as counter:
        model(np.ones((1, *size, 3), "float32"))
    counts = multiply_adds(model, size)
    assert set(counts) == {"patch_embedding", "stage1", "merging1", "stage2", "predictions"}
    assert 2 * sum(counts.values()) == counter.get_total_flops()


def test_a_size_is_needed():
    with pytest.raises(ValueError, match="give `size`"):
        multiply_adds(VideoSwinT((None, None, None, 3), embed_dim=8, num_heads=(1, 1, 1, 1)))
