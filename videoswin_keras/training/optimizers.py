"""AdamW, with which every Video Swin was trained."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="videoswin_keras")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, on PyTorch by its fused kernel: the same numbers, sooner and in less memory.

    Keras's own goes over all weights eleven times there and holds three more copies of them meanwhile. On TensorFlow
    and JAX this is Keras's own. Arguments and state are the same. Weights that are not float32 differ by rounding.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(AdamW(1e-4, weight_decay=0.05), "mse")

    Source: arXiv 1711.05101.
    """

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        if keras.backend.backend() != "torch":
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        from videoswin_keras.nn import torch_functions

        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        step = ops.cast(self.iterations + 1, "float32")
        rate = ops.cast(learning_rate, "float32")
        rate = rate * ops.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        torch_functions.fused_adam(
            [variable.value for variable in trainable_variables],
            grads,
            [self._momentums[index].value for index in indices],
            [self._velocities[index].value for index in indices],
            [self._velocity_hats[index].value for index in indices] if self.amsgrad else [],
            rate,
            (self.beta_1, self.beta_2),
            self.epsilon,
        )

    def _backend_increment_gradient_accumulators(self, grads: list, acc_grads: list) -> None:
        if keras.backend.backend() != "torch":
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        for total, gradient in zip(acc_grads, grads, strict=True):  # in place: Keras's own for any backend copies
            total.value.add_(gradient)
