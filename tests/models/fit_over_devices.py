"""Trains on two devices as on one: see `test_fit.py`."""

import contextlib
from typing import ClassVar

import keras
import numpy as np

from videoswin_keras import AdamW, VideoSwinT

CLIPS = np.random.default_rng(0).normal(size=(8, 4, 12, 12, 3)).astype("float32")
LABELS = np.arange(8) % 3


class DataParallel(keras.distribution.DataParallel):
    """Keeps the shapes of what is spread over the devices."""

    spread: ClassVar[set] = set()

    def get_data_layout(self, data_shape: tuple) -> keras.distribution.TensorLayout:
        assert self.device_mesh.shape == (2,)
        self.spread.add(data_shape)
        return super().get_data_layout(data_shape)


def weights(scope: contextlib.AbstractContextManager) -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    with scope:
        model = VideoSwinT(
            (None, None, None, 3), num_classes=3, dropout_rate=0.0, drop_path_rate=0.0, embed_dim=8, depths=(1, 1),
            num_heads=(1, 2), window_size=(2, 3, 3),
        )  # fmt: skip
        model.compile(AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(CLIPS, LABELS, batch_size=4, shuffle=False, verbose=0)
        return model.get_weights()


def two_devices() -> contextlib.AbstractContextManager:
    if keras.backend.backend() == "jax":
        return DataParallel().scope()
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy.scope()


if __name__ == "__main__":
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for one, other in zip(weights(two_devices()), weights(contextlib.nullcontext()), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    if keras.backend.backend() == "jax":
        assert (4, 4, 12, 12, 3) in DataParallel.spread
    print("same")
