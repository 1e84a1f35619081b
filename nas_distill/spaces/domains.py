"""Domains: the values that one parameter can take, and positions within them."""

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
    """One of ``values`` (scalars, all different), written from cheap to dear: the first is the low end.

    Raises:
        SpaceError: no values, a value that is no scalar, or one given twice.
    """

    values: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError("a choice needs at least one value.")
        seen: dict[Any, Scalar] = {}
        for value in self.values:
            plain = to_plain(value)
            if isinstance(plain, list | dict):
                raise SpaceError(f"a choice is between numbers, strings, booleans or null, and {plain!r} is none.")
            if identity(plain) in seen:
                raise SpaceError(f"the value {format_value(plain)} is given twice.")
            seen[identity(plain)] = plain
        object.__setattr__(self, "values", tuple(seen.values()))

    @property
    def integers(self) -> bool:
        """Whether every value is an integer (booleans are not)."""
        return all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)

    @property
    def ordered(self) -> bool:
        """Whether the values are integers of a constant step, which ``low``, ``high`` and ``step`` describe."""
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
        """The distance between neighbours of an ordered choice (1 where there is one value alone)."""
        numbers = self._sorted()
        return numbers[1] - numbers[0] if len(numbers) > 1 else 1

    def __len__(self) -> int:
        return len(self.values)

    def at(self, index: int) -> Scalar:
        """Return value ``index``, counted from the cheap end."""
        return self.values[index]

    def match(self, value: Any) -> Scalar:
        """Return the choice's own value that equals ``value`` (8.0 gives 8; True and 1 are different).

        Raises:
            SpaceError: there is none; the message says which there are.
        """
        plain = to_plain(value)
        if not isinstance(plain, list | dict):
            for own in self.values:
                if identity(own) == identity(plain):
                    return own
        raise SpaceError(f"{format_value(plain)} is not one of {self}.")

    def __str__(self) -> str:
        return ", ".join(format_value(value) for value in self.values)

    def _sorted(self) -> list[int]:
        return sorted(value for value in self.values if isinstance(value, int)) if self.integers else []


@dataclass(frozen=True)
class IntRange:
    """The integers ``low``, ``low + step``, ... up to and including ``high``; ``low`` is the cheap end.

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
                raise SpaceError(f"the {name} of an integer range is {format_value(plain)}, which is no integer.")
            object.__setattr__(self, name, plain)
        if self.high < self.low:
            raise SpaceError(f"an integer range from {self.low} to {self.high} is empty; the low end comes first.")
        if self.step < 1:
            raise SpaceError(f"the step of an integer range is {self.step}; it must be at least 1.")
        if (self.high - self.low) % self.step:
            raise SpaceError(f"steps of {self.step} from {self.low} do not lead to {self.high}.")

    @property
    def integers(self) -> bool:
        """Whether every value is an integer: always."""
        return True

    @property
    def ordered(self) -> bool:
        """Whether ``low``, ``high`` and ``step`` describe the values: always."""
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
            SpaceError: it is not in the range; the message says what is.
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
    """Return a value as a user would write it in a space file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def identity(value: Scalar) -> tuple[str, Scalar]:
    """Return what two values share exactly when they mean the same: 8 and 8.0 do, 1 and True do not."""
    # Python holds True == 1 == 1.0; here a number is a number whatever its type, and a boolean is something else.
    kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "other"
    return kind, value


def value_near(name: str, domain: Domain, *, fraction: float, reach: float, rng: np.random.Generator) -> Scalar:
    """Answer ``SearchSpace.draw`` with the value at ``fraction``, give or take ``reach`` at random.

    Fraction 0 is the cheap end and 1 the dear one. A choice of anything but numbers has no ends to lie between: it is
    drawn uniformly.
    """
    if not is_ordered(domain):
        return domain.at(int(rng.integers(len(domain))))
    position = fraction + rng.uniform(-reach, reach)
    index = math.floor(position * len(domain))
    return domain.at(min(max(index, 0), len(domain) - 1))


def value_at(name: str, domain: Domain, *, fraction: float) -> Scalar:
    """Answer ``SearchSpace.draw`` with the value at ``fraction``; the last one where a domain has no order."""
    return domain.at(
        min(math.floor(fraction * len(domain)), len(domain) - 1) if is_ordered(domain) else len(domain) - 1
    )


def is_ordered(domain: Domain) -> bool:
    """Say whether the values of a domain are numbers, and so have an order."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values)
