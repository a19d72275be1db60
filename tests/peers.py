"""torchvision's models with random weights, as a second, independent reference."""

import torch
import torch_reference  # noqa: F401 (makes torchvision importable)
from torchvision.models import swin_t
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t

__all__ = ["randomise", "swin3d_b", "swin3d_s", "swin3d_t", "swin_t"]


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Gives every parameter a random value of a scale at which all of them matter; returns the model for inference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            if name.endswith("relative_position_bias_table"):
                parameter.copy_(draw)
            elif parameter.ndim == 1:
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(1 + 0.2 * draw if is_scale else 0.1 * draw)
            else:
                parameter.copy_(draw / parameter[0].numel() ** 0.5)
    return model.eval()
