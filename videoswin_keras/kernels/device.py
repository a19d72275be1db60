"""Where something is computed."""

from typing import Any

import keras


def is_on_cpu(x: Any) -> bool:
    """Whether `x` is on a CPU; on TensorFlow and JAX, whether the machine has nothing else."""
    if keras.backend.backend() == "torch":
        return x.device.type == "cpu"
    return all(device.lower().startswith("cpu") for device in keras.distribution.list_devices())


def is_one() -> bool:
    """Whether the machine has one device alone."""
    return len(keras.distribution.list_devices()) == 1
