"""The name of one precision of a network, parsed and printed here and nowhere else."""

import re
from dataclasses import dataclass

Bits = int | float  # 1.58 is a float, and a type checker at run time does not take 2 for one

FULL = "full"  # the network as it was trained, which is no `Variant`
METHODS = ("nearest",)
TERNARY: Bits = 1.58  # log2(3), rounded the way everybody writes it
LEVELS: dict[Bits, int] = {8: 256, 4: 16, 3: 8, 2: 4, TERNARY: 3}

_NUMBER = r"\d+(?:\.\d+)?"
_NAME = re.compile(rf"(\w+)-w({_NUMBER})(?:-(sym|asym))?(?:-last({_NUMBER}))?")
_SYMMETRIC = {None: None, "sym": True, "asym": False}


def levels(bits: Bits) -> int:
    """Number of values that a weight of `bits` can take in its channel.

    Raises:
        ValueError: no grid of so many bits exists.
    """
    if bits not in LEVELS:
        raise ValueError(f"Bits must be one of {', '.join(map(str, LEVELS))}, got {bits:g}.")
    return LEVELS[bits]


@dataclass(frozen=True)
class Variant:
    """How a network is quantized: `nearest-w2`, `nearest-w1.58-last8`, `nearest-w2-sym-last8`.

    Two variants that mean the same have the same name, since files are found by it: what a
    default already says is refused.

    Attributes:
        method: how weights are rounded, one of `METHODS`.
        bits: of every convolution and linear layer; 1.58 is ternary.
        last_bits: of the last such layer, the classifier's head; `bits` if None.
        symmetric: the grid of every layer; if None ternary layers get the symmetric one, which is
            exactly optimal, and others the asymmetric one, which at 2 bits is far more accurate.

    Raises:
        ValueError: unknown method or bits, or a field that repeats a default.
    """

    method: str
    bits: Bits
    last_bits: Bits | None = None
    symmetric: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what does not exist or has a shorter name."""
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise ValueError(f"Quantization method must be one of {known}, got `{self.method}`.")
        levels(self.bits)
        if self.last_bits is not None:
            levels(self.last_bits)
        if self.last_bits == self.bits:
            raise ValueError(
                f"`{self}`: the last layer has {self.bits:g} bits anyway, so leave"
                f" `-last{self.bits:g}` out."
            )
        if self.symmetric == (self.bits == TERNARY):
            kind = "sym" if self.symmetric else "asym"
            raise ValueError(
                f"`{self}`: {kind} is the default at {self.bits:g} bits, so leave `-{kind}` out."
            )

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Read a name such as `nearest-w2-sym-last8`.

        Raises:
            ValueError: the name is malformed, or means no variant.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(
                "A variant is named METHOD-wBITS[-sym|-asym][-lastBITS], such as"
                f" `nearest-w2-last8`, got `{name}`."
            )
        method, bits, grid, last = found.groups()
        return cls(method, float(bits), float(last) if last else None, _SYMMETRIC[grid])

    def __str__(self) -> str:
        """The name that `parse` reads."""
        grid = {None: "", True: "-sym", False: "-asym"}[self.symmetric]
        last = "" if self.last_bits is None else f"-last{self.last_bits:g}"
        return f"{self.method}-w{self.bits:g}{grid}{last}"

    def is_symmetric(self, bits: Bits) -> bool:
        """Whether a layer of `bits`, which the last one has of its own, gets a symmetric grid."""
        return bits == TERNARY if self.symmetric is None else self.symmetric
