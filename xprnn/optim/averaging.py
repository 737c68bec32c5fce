"""The running average of the parameters, which often predicts better than the last of them."""

from dataclasses import dataclass

from xprnn import tree
from xprnn._array import checks, tree_checks
from xprnn._array import namespace as xpx
from xprnn._array.autograd import no_grad
from xprnn.optim.optimizer import INSTEAD
from xprnn.tree import Tree


@dataclass(frozen=True)
class EMA:
    """EMA, the exponential moving average of the parameters: Polyak's average with a short memory: a = d a + (1 − d) p.

    ``average = ema.init(params)``; after each update ``average = ema.update(average, params)``; evaluate with
    ``layer(average, x)``. It begins at the parameters themselves, so no bias is to be corrected, and none is. NaN and
    infinity in a parameter stay in the average: update it with finite parameters alone, as `fit` does.

    Parameters
    ----------
    decay : float
        d, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        If it is out of range.

    References
    ----------
    .. [1] Polyak & Juditsky (1992), Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        checks.field(self, "decay", checks.fraction)

    @no_grad
    def init(self, params: Tree) -> Tree:
        """Initialise the average: a copy of the parameters, with the constants under "fixed"."""
        tree_checks.floats("params", params, INSTEAD)
        return tree.map(xpx.copy, params, constant="fixed")

    @no_grad
    @xpx.no_underflow
    def update(self, average: Tree, params: Tree) -> Tree:
        """Update the average from the parameters; its constants stay as they are.

        Raises
        ------
        ValueError
            If `params` is built otherwise than `average`, in its keys or a shape; the message names the path.
        TypeError
            If a leaf is no array of float32 or float64, or of another dtype or library than its average.
        """
        tree_checks.like("params", params, "average", average, INSTEAD)
        d = self.decay
        return tree.map(lambda a, p: d * a + (1.0 - d) * p, average, params, constant="fixed")
