"""What is promised of the figures, and what was missed: then a bench does not end well."""

import sys
from dataclasses import dataclass, field


@dataclass
class Targets:
    """Compares figures with their bounds as they are measured."""

    missed: list[str] = field(default_factory=list)

    def most(self, name: str, value: float, bound: float) -> str:
        """The bound in words; `value` should not be above it."""
        return self._told(name, value, f"≤ {bound:g}", value <= bound)

    def least(self, name: str, value: float, bound: float) -> str:
        """The bound in words; `value` should not be below it."""
        return self._told(name, value, f"≥ {bound:g}", value >= bound)

    def end(self) -> None:
        """Ends the program with code 1 if a target was missed, and says which."""
        for text in self.missed:
            print(f"missed: {text}", file=sys.stderr)
        if self.missed:
            sys.exit(1)

    def _told(self, name: str, value: float, bound: str, met: bool) -> str:
        if not met:
            self.missed.append(f"{name}: {value:.3g}, not {bound}")
        return bound
