"""Domains: the allowed values of one parameter, and positions within them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from nas_distill.spaces.architecture import Scalar, to_plain
from nas_distill.utils.errors import SpaceError


@dataclass(frozen=True)
class Choice:
    """A domain of distinct scalar ``values``, in order of increasing cost: the first is the low end.

    Raises:
        SpaceError: there are no values, a value is not a scalar, or a value is given twice.
    """

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError("a choice needs at least one value.")
        seen: dict[Any, Scalar] = {}
        for value in self.values:
            plain = to_plain(value)
            if isinstance(plain, list | dict):
                raise SpaceError(f"values of a choice must be numbers, strings, booleans or null, not {plain!r}.")
            if equality_key(plain) in seen:
                raise SpaceError(f"the value {format_value(plain)} is given twice.")
            seen[equality_key(plain)] = plain
        object.__setattr__(self, "values", tuple(seen.values()))

    @property
    def integers(self) -> bool:
        """True if every value is an integer (booleans are not)."""
        return all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)

    @property
    def ordered(self) -> bool:
        """True if the values are integers with a constant step, described by ``low``, ``high`` and ``step``."""
        numbers = self._sorted()
        return bool(numbers) and len({b - a for a, b in pairwise(numbers)}) <= 1

    @property
    def low(self) -> int:
        """The least value of an ordered choice."""
        return self._sorted()[0]

    @property
    def high(self) -> int:
        """The greatest value of an ordered choice."""
        return self._sorted()[-1]

    @property
    def step(self) -> int:
        """The distance between neighbours of an ordered choice (1 for a single value)."""
        numbers = self._sorted()
        return numbers[1] - numbers[0] if len(numbers) > 1 else 1

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: int) -> Scalar:
        """Return value ``index``, counted from the low end."""
        return self.values[index]

    def match(self, value: Any) -> Scalar:
        """Return the choice's own value that equals ``value`` (8.0 gives 8; True and 1 are different).

        Raises:
            SpaceError: no value is equal; the message lists the values.
        """
        plain = to_plain(value)
        if not isinstance(plain, list | dict):
            for own in self.values:
                if equality_key(own) == equality_key(plain):
                    return own
        raise SpaceError(f"{format_value(plain)} is not one of {self}.")

    def __str__(self) -> str:
        return ", ".join(format_value(value) for value in self.values)

    def _sorted(self) -> list[int]:
        return sorted(value for value in self.values if isinstance(value, int)) if self.integers else []


@dataclass(frozen=True)
class IntRange:
    """A domain of the integers ``low``, ``low + step``, ... up to and including ``high``; ``low`` is the cheap end.

    Raises:
        SpaceError: ``high`` is below ``low``, or ``step`` is below 1 or does not lead to ``high``.
    """

    low: int
    high: int
    step: int = 1

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            plain = to_plain(getattr(self, name))
            if not isinstance(plain, int) or isinstance(plain, bool):
                raise SpaceError(f"the {name} of an integer range must be an integer, not {format_value(plain)}.")
            object.__setattr__(self, name, plain)
        if self.high < self.low:
            raise SpaceError(f"an integer range from {self.low} to {self.high} is empty; give the low end first.")
        if self.step < 1:
            raise SpaceError(f"the step of an integer range is {self.step}; it must be at least 1.")
        if (self.high - self.low) % self.step:
            raise SpaceError(f"steps of {self.step} from {self.low} do not lead to {self.high}.")

    @property
    def integers(self) -> bool:
        """True: every value is an integer."""
        return True

    @property
    def ordered(self) -> bool:
        """True: ``low``, ``high`` and ``step`` describe the values."""
        return True

    @property
    def values(self) -> tuple[int, ...]:
        """All values, from low to high."""
        return tuple(range(self.low, self.high + 1, self.step))

    def __len__(self) -> int:
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        """Return value ``index``, counted from the low end."""
        return self.low + index * self.step

    def match(self, value: Any) -> int:
        """Return ``value`` as an integer of the range (8.0 gives 8; True is not 1).

        Raises:
            SpaceError: it is not in the range; the message has the range.
        """
        plain = to_plain(value)
        number = isinstance(plain, int | float) and not isinstance(plain, bool)
        if number and self.low <= plain <= self.high and (plain - self.low) % self.step == 0:  # type: ignore[operator]
            return int(plain)  # type: ignore[arg-type]
        raise SpaceError(f"{format_value(plain)} is not an integer of {self}.")

    def __str__(self) -> str:
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"{self.low} to {self.high}{steps}"


Domain: TypeAlias = Choice | IntRange


def format_value(value: Any) -> str:
    """Return a value as written in a space file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def equality_key(value: Scalar) -> tuple[str, Scalar]:
    """Return a key for comparing values: equal for 8 and 8.0, different for 1 and True."""
    # In Python True == 1 == 1.0. Here numbers of all types are compared by value, and booleans are not numbers.
    kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "other"
    return kind, value


def value_near(name: str, domain: Domain, *, fraction: float, reach: float, rng: np.random.Generator) -> Scalar:
    """Return a random value near ``fraction`` of a domain, within ``reach``, for ``SearchSpace.draw``.

    Fraction 0 is the low end (cheapest) and 1 the high end (most expensive). Choices of other types than numbers have
    no order and are drawn uniformly.
    """
    if not is_ordered(domain):
        return domain.at(int(rng.integers(len(domain))))
    position = fraction + rng.uniform(-reach, reach)
    index = math.floor(position * len(domain))
    return domain.at(min(max(index, 0), len(domain) - 1))


def value_at(name: str, domain: Domain, *, fraction: float) -> Scalar:
    """Return the value at ``fraction`` of a domain, the last if it has no order, for ``SearchSpace.draw``."""
    return domain.at(
        min(math.floor(fraction * len(domain)), len(domain) - 1) if is_ordered(domain) else len(domain) - 1
    )


def is_ordered(domain: Domain) -> bool:
    """Return True if the values of a domain are numbers, which have an order."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)
