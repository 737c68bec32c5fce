"""Convert states between the user's form, h (L*D, B, H) or the pair (h, c), and that of the scans.

h of an LSTM with a projection is (L*D, B, P).

Inside, a state is one tuple of arrays (B, ·) per direction of every level.
"""

from typing import Any

from xprnn._array import checks
from xprnn._array.layout import Form
from xprnn._array.namespace import ArraySpec
from xprnn.cells import States

State = Any
"""PyTorch's: h (L*D, B, H), for LSTM the pair (h, c)."""


def read(
    name: str, state: State, sizes: tuple[tuple[int, ...], int], spec: ArraySpec, B: int | None, like: str = "x"
) -> list[Any]:
    """Check a user's state and return one tuple of arrays (B, H) per direction, None for a state of zeros.

    Parameters
    ----------
    name : str
        "dstate" may leave out a component.
    sizes : (widths, L*D)
        The widths of the components, one or two, and the number of directions.
    B : int or None
        None where x has no batch axis.
    """
    (widths, directions), n = sizes, len(sizes[0])
    if state is None:
        return [None] * directions
    components = (state,) if n == 1 else _components(name, state, n)
    for k, component in enumerate(components):
        shape = (directions, widths[k]) if B is None else (directions, B, widths[k])
        if not checks.fits(component, spec, shape):
            letters = f"({'L*D' if B is None else 'L*D, B'}, {'H' if widths[k] == widths[-1] else 'P'})"
            _check(name if n == 1 else f"{name}[{k}]", component, spec, letters, shape, like)
    found = []
    for d in range(directions):  # without the functions that comprehensions are: it is a step's, too
        at = slice(d, d + 1) if B is None else d
        of_direction: tuple[Any, ...] = ()
        for component in components:
            of_direction += (None if component is None else component[at, ...],)
        found.append(of_direction)
    return found


def _check(label: str, component: Any, spec: ArraySpec, letters: str, shape: tuple[int, ...], like: str) -> None:
    if component is not None:
        checks.array(label, component, spec, letters, shape, like)
    elif not label.startswith("dstate"):
        raise TypeError(f"`{label}` must be an array {letters}, got None; give both or neither")


def write(states: list[States], form: Form) -> State:
    """Return states, one tuple of arrays (B, H) per direction, in the user's form."""
    components = []
    if len(states) == 1:
        for s in states[0]:
            components.append(s[None, ...])
    else:
        stack = form.spec.xp.stack
        components = [stack(list(column)) for column in zip(*states, strict=True)]
    if not form.batched:
        components = [s[:, 0, ...] for s in components]
    return components[0] if len(components) == 1 else tuple(components)


def _components(name: str, state: State, n: int) -> tuple[Any, ...]:
    if not isinstance(state, tuple | list) or len(state) != n:
        raise TypeError(f"`{name}` must be the pair (h, c), got {type(state).__name__}")
    return tuple(state)
