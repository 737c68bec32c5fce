"""Arithmetic on one number or a vector of numbers, and loops, as LLVM instructions.

No instruction has a flag that lets LLVM reorder or contract arithmetic: what is to be rounded once is `Lanes.fma`. So a
number is the same wherever in a row it stands, in the vectors or among the few behind them, and in whatever tile.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT32, FLOAT64 = ir.FloatType(), ir.DoubleType()


def integer(n: int) -> ir.Constant:
    """Return a constant index."""
    return ir.Constant(I64, n)


def size_of(number_type: ir.Type) -> int:
    """Return the bytes of a float."""
    return 8 if number_type == FLOAT64 else 4


class Turn:
    """A turn of a loop: the index, and the values that the turn before handed on.

    Attributes
    ----------
    index : ir.Value
    values : list of ir.Value
        Within the loop those that came in; behind it the last ones.
    """

    def __init__(self, index: ir.Value, values: list[ir.Value]) -> None:
        self.index, self.values = index, values

    def hand_on(self, values: Sequence[ir.Value]) -> None:
        """Set the values of the next turn."""
        self.values = list(values)


@contextmanager
def turns(
    builder: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: ir.Value | int = 1,
    first: Sequence[ir.Value] = (),
) -> Iterator[Turn]:
    """Emit `for index in range(start, stop, step)`, whose turns hand on values, beginning with the `first`.

    A turn calls `hand_on`. The test stands at the loop's end, so that a turn costs one branch.
    """
    before, body, end = builder.block, *(builder.append_basic_block(name) for name in ("turn", "end"))
    builder.cbranch(builder.icmp_signed("<", start, stop), body, end)
    builder.position_at_end(body)
    index, values = builder.phi(I64), [builder.phi(value.type) for value in first]
    turn = Turn(index, list(values))
    yield turn
    following = builder.add(index, integer(step) if isinstance(step, int) else step)
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", following, stop), body, end)
    builder.position_at_end(end)
    for phi, at_first, then in zip([index, *values], [start, *first], [following, *turn.values], strict=True):
        phi.add_incoming(at_first, before)
        phi.add_incoming(then, last)
    turn.values = [_merged(builder, (x, before), (y, last)) for x, y in zip(first, turn.values, strict=True)]


@contextmanager
def loop(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value, step: ir.Value | int = 1) -> Iterator[ir.Value]:
    """Emit `for index in range(start, stop, step)`."""
    with turns(builder, start, stop, step) as turn:
        yield turn.index


def _merged(builder: ir.IRBuilder, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
    """Return a value that depends on the block it comes from."""
    phi = builder.phi(incoming[0][0].type)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi


def prefetch(b: ir.IRBuilder, there: ir.Value, cache: int, *, write: bool) -> None:
    """Ask for a line in the first or the second cache, to read it or to write to it."""
    name, address = "llvm.prefetch.p0", I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [address, I32, I32, I32])
    function = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    options = [ir.Constant(I32, n) for n in (int(write), 4 - cache, 1)]  # the last one: no instructions lie there
    b.call(function, [b.bitcast(there, address), *options])


class Lanes:
    """Arithmetic on a number, or on a vector of `count` numbers.

    Parameters
    ----------
    builder : ir.IRBuilder
    number_type : ir.Type
        `FLOAT32` or `FLOAT64`.
    count : int
        1 is a number that is no vector.
    """

    def __init__(self, builder: ir.IRBuilder, number_type: ir.Type, count: int) -> None:
        self.builder, self.number_type, self.count = builder, number_type, count
        self.bits = 8 * size_of(number_type)
        self.type = self.of(number_type)
        self.integers = self.of(ir.IntType(self.bits))

    def of(self, element: ir.Type) -> ir.Type:
        """Return the type of as many elements."""
        return element if self.count == 1 else ir.VectorType(element, self.count)

    @property
    def is_double(self) -> bool:
        """Whether the numbers are float64."""
        return bool(self.number_type == FLOAT64)

    # -- memory and constants

    def load(self, base: ir.Value, index: ir.Value, align: int | None = None) -> ir.Value:
        """Load from `base`, a pointer to numbers, at an index; `align` is in bytes, at first a number's."""
        return self.builder.load(self._at(base, index), align=align or self.bits // 8)

    def store(self, x: ir.Value, base: ir.Value, index: ir.Value, align: int | None = None) -> None:
        """Store at an index from `base`."""
        self.builder.store(x, self._at(base, index), align=align or self.bits // 8)

    def _at(self, base: ir.Value, index: ir.Value) -> ir.Value:
        pointer = self.builder.gep(base, [index])
        return pointer if self.count == 1 else self.builder.bitcast(pointer, self.of(base.type.pointee).as_pointer())

    def splat(self, x: ir.Value) -> ir.Value:
        """Return a vector of one number."""
        if self.count == 1:
            return x
        undefined = ir.Constant(ir.VectorType(x.type, self.count), ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, self.count), None)
        first = self.builder.insert_element(undefined, x, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, zeros)

    def transpose(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the columns of a square whose rows are vectors: blocks of half its size change places, and so on."""
        found, half = list(rows), self.count // 2
        while half:
            for i in [i for i in range(self.count) if not i & half]:
                a, b = found[i], found[i + half]
                found[i] = self._shuffle(a, b, [j if not j & half else self.count + j - half for j in self._all])
                found[i + half] = self._shuffle(a, b, [j + half if not j & half else self.count + j for j in self._all])
            half //= 2
        return found

    @property
    def _all(self) -> range:
        return range(self.count)

    def _shuffle(self, a: ir.Value, b: ir.Value, numbers: list[int]) -> ir.Value:
        """Return a vector of numbers of two, which are counted on."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, self.count), numbers))

    def constant(self, x: float) -> ir.Constant:
        """Return a constant, rounded to the type of the numbers."""
        return self._constant(self.number_type, float(x))

    def bits_of(self, n: int) -> ir.Constant:
        """Return a constant integer as long as a number."""
        return self._constant(ir.IntType(self.bits), n)

    def _constant(self, element: ir.Type, x: float) -> ir.Constant:
        one = ir.Constant(element, x)
        return one if self.count == 1 else ir.Constant(ir.VectorType(element, self.count), [one] * self.count)

    # -- arithmetic

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x + y."""
        return self.builder.fadd(x, y)

    def sub(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x - y."""
        return self.builder.fsub(x, y)

    def mul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x y."""
        return self.builder.fmul(x, y)

    def div(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x / y."""
        return self.builder.fdiv(x, y)

    def neg(self, x: ir.Value) -> ir.Value:
        """Return -x."""
        return self.builder.fneg(x)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """Return x y + z, rounded once on a machine that can, in vectors as in numbers; else twice."""
        return self.call("fmuladd", x, y, z)

    def abs(self, x: ir.Value) -> ir.Value:
        """Return |x|."""
        return self.call("fabs", x)

    def sqrt(self, x: ir.Value) -> ir.Value:
        """Return √x, correctly rounded."""
        return self.call("sqrt", x)

    def copysign(self, x: ir.Value, sign: ir.Value) -> ir.Value:
        """Return |x| with the sign of `sign`."""
        return self.call("copysign", x, sign)

    def max(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the larger, NaN if any is NaN, as `numpy.maximum` does; shorter where one is a constant."""
        return self._extreme(">", x, y)

    def min(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the smaller, NaN if any is NaN, as `numpy.minimum` does; shorter where one is a constant."""
        return self._extreme("<", x, y)

    def _extreme(self, order: str, x: ir.Value, y: ir.Value) -> ir.Value:
        if isinstance(y, ir.Constant):
            x, y = y, x
        found = self.select(self.builder.fcmp_ordered(order, x, y), x, y)  # y where any is NaN: one instruction
        return found if isinstance(x, ir.Constant) else self.select(self.builder.fcmp_unordered("uno", x, x), x, found)

    def clamp(self, x: ir.Value, low: float, high: float) -> ir.Value:
        """Return x within constants; NaN stays."""
        return self.min(self.max(x, self.constant(low)), self.constant(high))

    def polynomial(self, x: ir.Value, *coefficients: float) -> ir.Value:
        """Return a polynomial, the highest power's coefficient first."""
        total = self.constant(coefficients[0])
        for each in coefficients[1:]:
            total = self.fma(total, x, self.constant(each))
        return total

    def total(self, x: ir.Value) -> ir.Value:
        """Return the sum of a vector's numbers, half added to half."""
        count = self.count
        while count > 1:
            count //= 2
            halves = [
                self.builder.shuffle_vector(
                    x, x, ir.Constant(ir.VectorType(I32, count), [ir.Constant(I32, j) for j in range(k, k + count)])
                )
                for k in (0, count)
            ]
            x = self.builder.fadd(*halves)
        return x if self.count == 1 else self.builder.extract_element(x, ir.Constant(I32, 0))

    # -- comparisons: false at NaN, but `ne`

    def compare(self, order: str, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x `order` y, of "<" "<=" ">" ">=" "==" "!="; at NaN false, but for "!="."""
        emit = self.builder.fcmp_unordered if order == "!=" else self.builder.fcmp_ordered
        return emit(order, x, y)

    def not_(self, c: ir.Value) -> ir.Value:
        """Return whether c is false."""
        return self.builder.not_(c)

    def and_(self, c: ir.Value, d: ir.Value) -> ir.Value:
        """Return whether both are true."""
        return self.builder.and_(c, d)

    def or_(self, c: ir.Value, d: ir.Value) -> ir.Value:
        """Return whether any is true."""
        return self.builder.or_(c, d)

    def select(self, c: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return x where c, else y."""
        return self.builder.select(c, x, y)

    def call(self, name: str, *arguments: ir.Value) -> ir.Value:
        """Call an intrinsic function of LLVM on operands of this type."""
        suffix = f"f{self.bits}" if self.count == 1 else f"v{self.count}f{self.bits}"
        full, module = f"llvm.{name}.{suffix}", self.builder.module
        kind = ir.FunctionType(self.type, [self.type] * len(arguments))
        return self.builder.call(module.globals.get(full) or ir.Function(module, kind, full), arguments)
