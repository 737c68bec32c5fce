"""Losses: each returns the loss, a 0-d array on the device, and its gradient at the prediction.

``loss(pred, target, *, mask=None, weights=None, reduction="mean") -> (loss, dpred)``

`mask` and `weights` have the shape of the prediction's steps, ``pred.shape[:-1]``. Where the mask is False the
target, the prediction and the weight may be anything, NaN included, and the gradient is 0; elsewhere NaN in any of the
three makes the loss NaN. A mean divides by the number
of valid elements, or of valid steps for `softmax_cross_entropy`, not by the sum of the weights; with nothing valid the
loss is 0.

On PyTorch the loss can be differentiated by autograd; `dpred`, derived by hand, holds no graph.

A target at the last step alone is a matter of the model, not of the loss: the layer `Last` before the readout hands on
the last valid step of every sequence, and (B, V) are then the steps. Targets at some steps are a mask: False at all
others, where the target array may hold NaN.
"""

from xprnn.losses.likelihoods import binary_cross_entropy, gaussian_nll, poisson, softmax_cross_entropy
from xprnn.losses.regression import half_sum_of_squares, huber, mae, mse, quantile

__all__ = [
    "binary_cross_entropy",
    "gaussian_nll",
    "half_sum_of_squares",
    "huber",
    "mae",
    "mse",
    "poisson",
    "quantile",
    "softmax_cross_entropy",
]
