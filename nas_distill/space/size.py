"""How many architectures a space holds."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class SpaceSize:
    """``count`` distinct architectures; where ``exact`` is False, at most so many."""

    count: int
    exact: bool = True

    def __str__(self) -> str:
        number = f"{self.count:,}" if self.count < 10**6 else f"{Decimal(self.count):.1e}".replace("e+", "e")
        noun = "architecture" if self.count == 1 else "architectures"
        return f"{number} {noun} (exact)" if self.exact else f"at most {number} {noun}"
