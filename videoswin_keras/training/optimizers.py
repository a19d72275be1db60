"""AdamW, with which every Video Swin was trained."""

from typing import Any

import keras
from keras import ops

from videoswin_keras import kernels


@keras.saving.register_keras_serializable(package="videoswin_keras")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, on PyTorch and TensorFlow by their fused kernels: the same numbers, sooner and, on
    PyTorch, in less memory.

    Keras's own goes over all weights eleven times there. On JAX this is Keras's own, and on TensorFlow with `amsgrad`,
    under a strategy of `tf.distribute` or where weights are not all float32. On PyTorch such weights differ by
    rounding. Arguments and state are the same.
    The gradients of an embedding are summed row by row first, as on the other backends. A subclass with an
    `update_step` of its own takes that, one weight after the other.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(AdamW(1e-4, weight_decay=0.05), "mse")

    Source: arXiv 1711.05101.
    """

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate: Any) -> None:
        if not self._is_fused(trainable_variables):
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        decays: list = [None] * len(trainable_variables)
        if kernels.FUSED_ADAM_DECAYS and self.weight_decay:
            share = ops.cast(learning_rate, "float32") * self.weight_decay
            decays = [share if self._use_weight_decay(variable.value) else None for variable in trainable_variables]
        kernels.fused_adam(
            [variable.value for variable in trainable_variables],
            grads,
            [self._momentums[index].value for index in indices],
            [self._velocities[index].value for index in indices],
            self._corrected(learning_rate),
            (self.beta_1, self.beta_2),
            self.epsilon,
            [self._velocity_hats[index].value for index in indices] if self.amsgrad else [],
            decays,
        )

    def _apply_weight_decay(self, variables: list) -> None:
        if not (kernels.FUSED_ADAM_DECAYS and self._is_fused(variables)):
            super()._apply_weight_decay(variables)

    def _is_fused(self, variables: list) -> bool:
        if kernels.fused_adam is None or type(self).update_step is not keras.optimizers.AdamW.update_step:
            return False
        return kernels.can_fuse_adam(variables, self.amsgrad)

    def _corrected(self, rate: Any) -> Any:
        """Returns the learning rate times the bias corrections of both averages."""
        step = ops.cast(self.iterations + 1, "float32")
        return ops.cast(rate, "float32") * ops.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)

    def _backend_increment_gradient_accumulators(self, grads: list, acc_grads: list) -> None:
        if kernels.add_in_place is None:
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        for total, gradient in zip(acc_grads, grads, strict=True):
            kernels.add_in_place(total.value, gradient)
