"""The hash of a cell, made once: what is kept for a cell is looked up under it in every call."""

from typing import Any


def hashed_once(cls: Any) -> Any:
    """Make a frozen dataclass keep its hash, which is that of its fields; decorates the class."""
    of_fields = cls.__hash__

    def __hash__(self: Any) -> int:  # noqa: N807
        kept = self.__dict__.get("_hash")
        if kept is None:
            kept = of_fields(self)
            self.__dict__["_hash"] = kept
        return int(kept)

    def __getstate__(self: Any) -> dict[str, Any]:  # noqa: N807
        """Return what is pickled: a hash of strings is another in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    cls.__hash__ = __hash__
    cls.__getstate__ = __getstate__
    return cls
