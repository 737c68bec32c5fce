"""The plan of a call: how the input map, the scans and the gradients of one level run, decided once by `select`.

Axes: T time, B batch, I input, G gates, H hidden units. A level is one layer of a stack in one direction or both; every
array here is in the time of its run, which is reversed for the reverse direction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from xprnn import tree
from xprnn._array import namespace as xpx
from xprnn._array import products as array_products
from xprnn._array.namespace import Array
from xprnn._array.packing import Packing
from xprnn.cells import Cell, Params, States, input_map
from xprnn.cells.layer_norm import NormCache
from xprnn.cells.normalised import GAIN, NAMES
from xprnn.kernels.fused import CodedLayer, Fused, Gradients, Inference
from xprnn.kernels.half import HALF, single
from xprnn.kernels.registry import Kernel
from xprnn.scan import NOTHING, Around


class Direction(NamedTuple):
    """One direction of a level: all arrays that its forward or backward pass reads."""

    x: Array  # (T, B, I)
    params: Params  # of the input map and of the cell, with `W_hh` as the scan sees it, and perhaps others
    cell_keys: tuple[str, ...]  # the keys of the cell's parameters
    state0: States | None  # (B, n) each; None: zeros
    around: Around
    noise: Array | None = None  # (T, B, G*H), added to the pre-activations

    @property
    def cell_params(self) -> Params:
        """The cell's parameters, which are what its scan is given."""
        return {key: self.params[key] for key in self.cell_keys}

    def normalised(self) -> "Direction":
        """Return the direction of a cell that normalises its input's share itself."""
        more = [NAMES.get(key, key) for key in ("b_ih", GAIN) if key in self.params]
        return self._replace(params=_renamed(self.params, NAMES), cell_keys=(*self.cell_keys, *more))

    def packed(self) -> "Direction":
        """Return the direction of the packed batch: every array in the order of `Around.packing`."""
        around, packing = self.around, self.around.packing
        assert packing is not None
        x = packing.pack(self.x)
        if any(field is not None for field in around[:-1]):
            around = around._replace(
                reset=None if around.reset is None else packing.pack(around.reset),
                fresh=packing.sort(around.fresh),
                gate=packing.pack_effects(around.gate),
                noise=packing.pack_effects(around.noise),
                drop=None if around.drop is None else packing.pack_effects((around.drop,))[0],
                inner=None if around.inner is None else packing.sort((around.inner,))[0],
            )
        noise = None if self.noise is None else packing.pack(self.noise)
        return self._replace(x=x, state0=packing.sort(self.state0), around=around, noise=noise)


class DirectionCache(NamedTuple):
    """Cache of one direction for its backward pass."""

    scan: Any  # of the kernel
    norm: NormCache | None  # of the input map


class PackedCache(NamedTuple):
    """Cache of one packed direction."""

    inner: Any  # of the kernel, or of the scan between products
    x: Array  # (S, I), packed


class Plan(NamedTuple):
    """Execution plan of a level, for one configuration, set of options, dtype, shape and library.

    `forward` and `backward` are the only way through a level. What is faster, such as input map, scan and gradients in
    one call, is another plan and not another way.
    """

    kernel: Kernel
    why: str
    fused: Fused | None = None  # None: the scan stands between products of its own
    packs: bool = False  # whether the valid steps of a ragged batch run alone
    normalised: Cell | None = None  # what the scan is of, where it normalises its input's share itself

    @property
    def is_silent(self) -> bool:
        """Whether machine code alone computes, which has no warnings to be kept from."""
        return self.fused is not None

    @property
    def is_small(self) -> bool:
        """Whether Python about a call takes as long as the call, so that `inference` is a way with little of it."""
        return self.fused is not None and self.fused.is_small

    @property
    def how(self) -> str:
        """One phrase for `explain`: which calls a direction is."""
        rows = "; where rows have lengths, of their valid steps alone" if self.packs else ""
        if self.fused is not None:
            small = "; inference with nothing around the cell checks its arrays there, too" if self.is_small else ""
            return f"input map, scan and gradients in one call{rows}{small}"
        scan = "a scan" if self.normalised is None else "a scan, which normalises its input,"
        owner = "the array library" if self.kernel.products is array_products else self.kernel.name
        return f"{scan} between products of {owner}{rows}"

    def forward(
        self, cell: Cell, directions: Sequence[Direction], *, keep: bool
    ) -> tuple[list[States], list[States], list[Any]]:
        """Run every direction forward.

        Returns
        -------
        states : list of states (T, B, n)
            Per direction, in the time of its run; h alone and 0 at invalid steps where the batch is packed.
        finals : list of states (B, n)
        caches : list
            For `backward`; without meaning where `keep` is False.
        """
        if not self.packs:
            return self._forward(cell, directions, keep=keep)
        packings = [d.around.packing for d in directions]
        packed = [d.packed() for d in directions]
        states, finals, caches = self._forward(cell, packed, keep=keep)
        finals = [packing.unsort(final) for packing, final in zip(packings, finals, strict=True)]
        return states, finals, [PackedCache(cache, d.x) for cache, d in zip(caches, packed, strict=True)]

    def _forward(
        self, cell: Cell, directions: Sequence[Direction], *, keep: bool
    ) -> tuple[list[States], list[States], list[Any]]:
        if self.normalised is not None:
            cell, directions = self.normalised, [d.normalised() for d in directions]
        if self.fused is not None:
            states, finals, caches = [], [], []
            for x, p, _, state0, around, noise in directions:
                of_steps, final, cache = self.fused.forward(x, state0, p, around, noise, keep=keep)
                states.append(of_steps)
                finals.append(final)
                caches.append(cache)
            return states, finals, caches
        norms: list[NormCache | None] = []
        arguments = (self._scan_arguments(cell, d, norms) for d in directions)  # lazily: all at once are large
        scans = self.kernel.scans(cell, arguments, keep=keep)
        of_steps, of_ends, of_scans = zip(*scans, strict=True)
        return list(of_steps), list(of_ends), list(map(DirectionCache, of_scans, norms))

    def _scan_arguments(
        self, cell: Cell, direction: Direction, norms: list[NormCache | None]
    ) -> tuple[Array, States, Params, Around]:
        """Return the arguments of a scan; append the cache of the input map's normalisation to `norms`."""
        x, params, _, state0, around, noise = direction
        a, norm = input_map.forward(cell, params, x, xpx.namespace(x), self.kernel.products)
        norms.append(norm)
        if state0 is None:
            B = x.shape[1] if around.packing is None else len(around.packing.order)
            state0 = tuple([xpx.zeros((B, n), a) for n in cell.widths(a.shape[-1] // cell.gates)])
        return a if noise is None else a + noise, state0, direction.cell_params, around

    def backward(
        self,
        cell: Cell,
        directions: Sequence[Direction],
        caches: Sequence[Any],
        dstates: Sequence[tuple[Array | None, ...]],
        dfinals: Sequence[tuple[Array | None, ...]],
        *,
        want: tuple[str, ...],
    ) -> Iterator[Gradients]:
        """Run every direction backward; yield its gradients before the next one begins."""
        if not self.packs:
            return self._backward(cell, directions, caches, dstates, dfinals, want=want)
        packings = [d.around.packing for d in directions]
        packed = [d._replace(x=cache.x) for d, cache in zip(directions, caches, strict=True)]
        of_ends = (p.sort(each) for p, each in zip(packings, dfinals, strict=True))
        found = self._backward(cell, packed, [cache.inner for cache in caches], dstates, of_ends, want=want)
        return map(partial(_unpacked, want), packings, found)

    def _backward(
        self,
        cell: Cell,
        directions: Iterable[Direction],
        caches: Iterable[Any],
        dstates: Iterable[tuple[Array | None, ...]],
        dfinals: Iterable[tuple[Array | None, ...]],
        *,
        want: tuple[str, ...],
    ) -> Iterator[Gradients]:
        if self.normalised is not None:
            cell, directions = self.normalised, [d.normalised() for d in directions]
        each = zip(directions, caches, dstates, dfinals, strict=True)
        if self.fused is not None:
            run = self.fused.backward
            found = (run(dstate, dfinal, cache, d.x, d.params, want=want) for d, cache, dstate, dfinal in each)
            return self._named(found)
        arguments = ((dstate, dfinal, cache.scan, d.cell_params) for d, cache, dstate, dfinal in each)
        scans = self.kernel.scans_backward(cell, arguments, want=want)
        return self._named(map(partial(self._gradients, cell), directions, caches, scans))

    def _named(self, found: Iterator[Gradients]) -> Iterator[Gradients]:
        """Return gradients under the names of the layer's parameters."""
        if self.normalised is None:
            return found
        return (each._replace(params=_renamed(each.params, ORIGINAL)) for each in found)

    def bind(self, p: Params, dp: Params) -> CodedLayer | None:
        """Bind a level that is one call, with nothing around and from zeros; None for any other."""
        if self.fused is None:
            return None
        return self.fused.bind(*[p, dp] if self.normalised is None else [_renamed(each, NAMES) for each in (p, dp)])

    def inference(
        self, shapes: Mapping[str, tuple[int, ...]], lead: tuple[int, ...], step: tuple[int, int] | None = None
    ) -> Inference | None:
        """Make the inference of a small level with nothing around its cell; None for any other, as in `Fused`."""
        if self.fused is None or not self.is_small:
            return None
        names = {} if self.normalised is None else NAMES
        return self.fused.inference({key: (names.get(key, key), shape) for key, shape in shapes.items()}, lead, step)

    def _gradients(self, cell: Cell, d: Direction, cache: DirectionCache, scan: tuple[Any, ...]) -> Gradients:
        """Return the gradients of a direction from those of its scan."""
        da, dstate0, dp, daround = scan
        dp_input, dx = input_map.backward(cell, d.params, da, d.x, cache.norm, xpx.namespace(da), self.kernel.products)
        return Gradients({**dp, **dp_input}, dx, dstate0, daround, da)


ORIGINAL = {name: key for key, name in NAMES.items()}


def _renamed(params: Params, names: Mapping[str, str]) -> dict[str, Array]:
    """Return parameters under other names."""
    return {names.get(key, key): a for key, a in params.items()}


def _unpacked(want: tuple[str, ...], packing: Packing, found: Gradients) -> Gradients:
    """Return the gradients of a packed direction in the order of its batch."""
    around = found.around
    if want:
        around = Around(
            fresh=packing.unsort(around.fresh),
            gate=around.gate and tuple([None if d is None else packing.unpack(d) for d in around.gate]),
            noise=around.noise and tuple([packing.unpack(d) for d in around.noise]),
        )
    a = packing.unpack(found.a) if "gate" in want else found.a
    return Gradients(found.params, packing.unpack(found.x), packing.unsort(found.state0), around, a)


class UpcastPlan(Plan):
    """Plan of a level in float16 on NumPy arrays: input map, scan and gradients are those of float32.

    What goes in is converted once, and what comes out is rounded once: h, the final states, and gradients.
    """

    __slots__ = ()
    is_silent = False  # NumPy may convert
    is_small = False  # arrays are converted

    def forward(
        self, cell: Cell, directions: Sequence[Direction], *, keep: bool
    ) -> tuple[list[States], list[States], list[Any]]:
        """Run every direction forward; of the states at all steps h alone is rounded, and the others are float32."""
        directions = list(map(self._upcast_all, directions))
        states, finals, caches = super().forward(cell, directions, keep=keep)
        half = self._half
        return [(half(h), *others) for h, *others in states], [tuple(map(half, final)) for final in finals], caches

    def backward(
        self,
        cell: Cell,
        directions: Sequence[Direction],
        caches: Sequence[Any],
        dstates: Sequence[tuple[Array | None, ...]],
        dfinals: Sequence[tuple[Array | None, ...]],
        *,
        want: tuple[str, ...],
    ) -> Iterator[Gradients]:
        """Run every direction backward; what a gradient of `leak` is made from stays in float32."""
        dstates, dfinals = tree.map(self._single, (tuple(dstates), tuple(dfinals)))
        directions = list(map(self._upcast, directions))
        return map(self._rounded, super().backward(cell, directions, caches, dstates, dfinals, want=want))

    def _upcast(self, d: Direction) -> Direction:
        """Return a direction with x and parameters in float32."""
        params = {key: self._single(a) for key, a in d.params.items() if key != "fixed"}
        return d._replace(x=self._single(d.x), params=params)

    def _upcast_all(self, d: Direction) -> Direction:
        """Return a direction with all that a forward pass reads in float32."""
        d = self._upcast(d)
        if d.state0 is not None:
            d = d._replace(state0=tuple(map(self._single, d.state0)))
        if d.around is NOTHING and d.noise is None:
            return d
        around, noise = tree.map(self._single, (d.around._replace(packing=None), d.noise))
        return d._replace(around=around._replace(packing=d.around.packing), noise=noise)

    def _rounded(self, gradients: Gradients) -> Gradients:
        dp, dx, dstate0, daround, da = gradients
        dp, dx, dstate0, fresh = tree.map(self._half, (dp, dx, dstate0, daround.fresh))
        return Gradients(dp, dx, dstate0, daround if fresh is None else daround._replace(fresh=fresh), da)

    def _single(self, a: Array) -> Array:
        return single(self.kernel, a)

    def _half(self, a: Array) -> Array:
        return self.kernel.cast(a, HALF)
