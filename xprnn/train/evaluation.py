"""Evaluation: the mean loss and metrics of a model on sequences, and where a loss that is not finite comes from."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array.namespace import ArraySpec
from xprnn._array.sums import sum_first
from xprnn.backends import to_numpy
from xprnn.protocol import Layer
from xprnn.train import nonfinite
from xprnn.train.data import Source
from xprnn.train.minibatch import Batch
from xprnn.train.user_values import number, pair


class Evaluation:
    """Evaluation of a model on a source: called with parameters, it returns the means of the loss and of metrics."""

    def __init__(
        self,
        source: Source,
        model: Layer,
        loss: Any,
        metrics: dict[str, Callable[..., Any]],
        batch_size: int,
        kernel: str,
    ) -> None:
        self.source, self.model, self.loss, self.metrics = source, model, loss, metrics
        self.batch_size, self.kernel = batch_size, kernel

    @nonfinite.silent
    def __call__(self, params: Any) -> dict[str, float]:
        """Return the means over all that counts; the host waits for the device once, at the end."""
        spec = xpx.spec_of(tree.leaves(params)[0])
        weighed: list[Any] = []
        count, state = 0, None
        for batch, options, _ in self._batches(spec):
            y, state = self.model(params, batch.x, None if batch.begins else tree.map(xpx.detached, state), **options)
            masked = {} if batch.mask is None else {"mask": batch.mask}
            if not batch.counted:  # a mean over nothing may be NaN
                continue
            found = [pair("loss", self.loss(y, batch.y, **masked), spec)[0]]
            for name, metric in self.metrics.items():
                found.append(number(f"metrics[{name!r}]", metric(y, batch.y, **masked), spec))
            weighed.append(spec.xp.stack([xpx.cast(each, spec.dtype) for each in found]) * float(batch.counted))
            count += batch.counted
        sums = sum_first(spec.xp.stack(weighed), spec.xp)  # at the end: a running sum would lose more to rounding
        return dict(zip(("loss", *self.metrics), (to_numpy(sums) / count).tolist(), strict=True))

    @nonfinite.silent
    def locate(self, params: Any) -> str:
        """Return where the loss is first not finite, in words: what in which layer, at which step, of which samples."""
        spec, state = xpx.spec_of(tree.leaves(params)[0]), None
        for batch, options, index in self._batches(spec):
            state = None if batch.begins else state
            found = nonfinite.locate_in_evaluation(self.model, self.loss, params, batch, state, options, spec)
            if found is not None:
                return f"{found}, {_samples(index)}"
            _, state = self.model(params, batch.x, state, **options)
        return "that of every minibatch is finite, their sum is not"

    def _batches(self, spec: ArraySpec) -> Iterator[tuple[Batch, dict[str, Any], Any]]:
        """Yield minibatches in order, the options of a layer for each, and its index."""
        for index in self.source.plan(self.batch_size, None):
            batch = self.source.batch(index, spec)
            yield batch, {"kernel": self.kernel} | ({} if batch.lengths is None else {"lengths": batch.lengths}), index


def _samples(index: Any) -> str:
    """Return a minibatch's samples, or the steps of a stream, in words."""
    if isinstance(index, slice):
        return f"counted from step {index.start} of the stream"
    return f"in a minibatch of the samples {np.array2string(index, threshold=6, edgeitems=3, separator=', ')}"
