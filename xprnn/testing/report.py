"""Report of `check_gradients`, a table."""

import math
from typing import NamedTuple

EVERY = "all inputs"
"""The name of a row in which all inputs move at once."""


class Row(NamedTuple):
    """One comparison: a random direction in all inputs at once, or in one array alone, for one shape of call."""

    name: str
    numeric: float
    analytic: float
    error: float  # |numeric − analytic| / (‖g‖ ‖v‖), the greater g of this call and of that with all arguments
    call: str = ""


class Report(NamedTuple):
    """Report of `check_gradients`; `str()` of it is a table."""

    rows: tuple[Row, ...]
    tol: float

    @property
    def worst(self) -> Row:
        """The row with the greatest error."""
        return max(self.rows, key=lambda row: math.inf if math.isnan(row.error) else row.error)

    @property
    def wrong(self) -> tuple[Row, ...]:
        """The rows whose error is above the tolerance, or NaN."""
        return tuple(row for row in self.rows if not row.error <= self.tol)

    def __str__(self) -> str:
        """Return the rows of the first call, one of every other, and all that are wrong."""
        rows = [row for row in self.rows if row.call == self.rows[0].call or row.name == EVERY or row in self.wrong]
        call, name = (max(map(len, column)) for column in zip(*((row.call, row.name) for row in rows), strict=True))
        head = f"{'call':{call}}  {'input':{name}}  {'numeric':>13}  {'analytic':>13}  {'error':>8}"
        lines = [
            f"{row.call:{call}}  {row.name:{name}}  {row.numeric:13.6e}  {row.analytic:13.6e}  {row.error:8.1e}"
            f"{'' if row.error <= self.tol else '  WRONG'}"
            for row in rows
        ]
        return "\n".join([head, *lines])


class GradientError(AssertionError):
    """A gradient is not the derivative; the message is the report."""
