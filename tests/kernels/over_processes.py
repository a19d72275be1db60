"""Trains in two processes with `DistributedDataParallel` under autocast: see `test_autocast.py`."""

import socket
import sys

import keras
import numpy as np
import torch

from videoswin_keras import VideoSwinT


def model_and_clips() -> tuple:
    keras.utils.set_random_seed(0)
    model = VideoSwinT(
        (None, None, None, 3), num_classes=3, dropout_rate=0.0, drop_path_rate=0.0, embed_dim=8, depths=(2, 1),
        num_heads=(1, 2), window_size=(2, 3, 3),
    )  # fmt: skip
    return model, torch.tensor(np.random.default_rng(0).normal(size=(2, 4, 24, 24, 3)).astype("float32"))


def loss_of(model: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        return (model(clips, training=True) ** 2).mean()


def work(rank: int, port: int) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model, clips = model_and_clips()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    loss_of(parallel, clips[rank : rank + 1]).backward()
    found = [variable.value.grad for variable in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.value.grad = None
    (loss_of(model, clips[:1]) / 2 + loss_of(model, clips[1:]) / 2).backward()
    for variable, gradient in zip(model.trainable_variables, found, strict=True):
        expected = variable.value.grad
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port,), nprocs=2)
    print("same")
    sys.exit()
