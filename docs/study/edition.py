"""The second edition: its fleets, and every comparison that it shows, corrected together."""

from collections.abc import Hashable, Mapping

from docs.study.claims import Comparisons
from docs.study.comparisons import Asked, all_tests, curve_for, key_of
from docs.study.frontier import KeptCurve
from docs.study.numbers import Contrast, Study
from docs.study.verdicts import Compared, correct


class Edition:
    """The second edition.

    Args:
        fleets: by name; that of the frontier is among them.
    """

    def __init__(self, fleets: Mapping[str, Study]) -> None:
        self.fleets = fleets
        tests = {key: test for key, test in all_tests(fleets) if test is not None}
        self._compared = correct(tests)
        self.curves = {name: curve for name in fleets if (curve := curve_for(fleets, name))}

    def __len__(self) -> int:
        return len(self._compared)

    def __getitem__(self, asked: Asked) -> Compared:
        return self._compared[asked]

    def get(self, asked: Asked) -> Compared | None:
        """A comparison with networks of equal accuracy; None outside the curve."""
        return self[asked] if asked in self._compared else None

    def curve(self, fleet: str) -> KeptCurve:
        """The early stopping that a fleet's variants are compared with."""
        return self.curves[fleet]


class OneFleet(Comparisons):
    """The contrasts within one fleet of the second edition, to judge claims by.

    Args:
        edition: the second edition.
        fleet: the fleet's name.
    """

    def __init__(self, edition: Edition, fleet: str) -> None:
        super().__init__(edition.fleets[fleet], {})
        self._edition, self._fleet = edition, fleet

    def __getitem__(self, key: Hashable) -> Compared:
        if not isinstance(key, Contrast):
            raise TypeError(f"A fleet's comparisons are contrasts, got {key!r}.")
        return self._edition[key_of(self._fleet, key)]
