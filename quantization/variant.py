"""The name of one precision of a network, parsed and printed here and nowhere else."""

import re
from dataclasses import dataclass, fields
from typing import Literal

from quantization.rounding.grid import TERNARY, Bits, levels

Source = Literal["members", "nonmembers", "heldout"]

FULL = "full"  # the network as it was trained, which is no `Variant`
UNQUANTIZED: Bits = 32  # of a single layer: left as it is

# What can follow a method's name beside bits and grid, and makes a difference to it.
METHODS: dict[str, frozenset[str]] = {
    "nearest": frozenset({"bn"}),
    "adaround": frozenset({"paper", "folded", "bn"}),
    "brecq": frozenset({"paper", "fisher", "folded", "bn"}),
    "obc": frozenset({"paper", "bn"}),
    "gptq": frozenset({"bn"}),
}

_PAPER = {"brecq": frozenset({"folded"}), "obc": frozenset({"bn"})}  # what its settings imply

_NUMBER = r"\d+(?:\.\d+)?"
_NAME = re.compile(
    rf"(\w+)-w({_NUMBER})(?:-(sym|asym))?(?:-last({_NUMBER}))?"
    r"(-paper)?(-fisher)?(-folded)?(-bn)?(?:-(nonmembers|heldout))?"
)
_SYMMETRIC = {None: None, "sym": True, "asym": False}
_SOURCES: dict[str | None, Source] = {
    None: "members",
    "nonmembers": "nonmembers",
    "heldout": "heldout",
}


@dataclass(frozen=True)
class Variant:
    """How a network is quantized: `nearest-w2`, `brecq-w1.58-last8`, `obc-w2-sym-last8-bn`.

    Two variants that mean the same have the same name, since files are found by it: what a
    default already says is refused.

    Attributes:
        method: how weights are rounded, one of `METHODS`.
        bits: of every convolution and linear layer; 1.58 is ternary.
        last_bits: of the last such layer, the classifier's head; `bits` if None, and 32 leaves it
            at full precision.
        symmetric: the grid of every layer; if None ternary layers get the symmetric one, which is
            exactly optimal, and others the asymmetric one, which at 2 bits is far more accurate.
        paper: the settings of arXiv:2512.15335 instead of the fast ones.
        fisher: weight BRECQ's error by the Fisher information's diagonal.
        folded: fold BatchNorm into the convolution before it first.
        bn: estimate BatchNorm's statistics anew afterwards.
        calibration: where the images come from that the method looks at.

    Raises:
        ValueError: unknown method or bits, a field that repeats a default or that the method has
            no use for.
    """

    method: str
    bits: Bits
    last_bits: Bits | None = None
    symmetric: bool | None = None
    paper: bool = False
    fisher: bool = False
    folded: bool = False
    bn: bool = False
    calibration: Source = "members"

    def __post_init__(self) -> None:
        """Refuse what does not exist or has a shorter name."""
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise ValueError(f"Quantization method must be one of {known}, got `{self.method}`.")
        levels(self.bits)
        if self.last_bits not in (None, UNQUANTIZED):
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
        for option in self.options():
            if option not in METHODS[self.method]:
                having = ", ".join(method for method, all_ in METHODS.items() if option in all_)
                raise ValueError(
                    f"`{self}`: `-{option}` changes nothing for {self.method}, only for {having}."
                )
        if self.paper and (repeated := _PAPER.get(self.method, frozenset()) & {*self.options()}):
            option = min(repeated)
            raise ValueError(f"`{self}`: `-paper` implies `-{option}` here, so leave it out.")
        if self.folds and self.estimates_bn:
            raise ValueError(
                f"`{self}`: a folded BatchNorm has no statistics to estimate anew. Leave `-bn` or"
                " `-folded` out."
            )
        if self.calibration != "members" and not self.calibrates:
            raise ValueError(
                f"`{self}`: {self.method} looks at no images, so leave `-{self.calibration}` out."
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
                "A variant is named METHOD-wBITS[-sym|-asym][-lastBITS][-paper][-fisher][-folded]"
                f"[-bn][-nonmembers|-heldout], such as `adaround-w2-last8`, got `{name}`."
            )
        method, bits, grid, last, *options, source = found.groups()
        paper, fisher, folded, bn = map(bool, options)
        last_bits = float(last) if last else None
        symmetric, calibration = _SYMMETRIC[grid], _SOURCES[source]
        return cls(
            method, float(bits), last_bits, symmetric, paper, fisher, folded, bn, calibration
        )

    def __str__(self) -> str:
        """The name that `parse` reads."""
        grid = {None: "", True: "-sym", False: "-asym"}[self.symmetric]
        last = "" if self.last_bits is None else f"-last{self.last_bits:g}"
        options = "".join(f"-{option}" for option in self.options())
        source = "" if self.calibration == "members" else f"-{self.calibration}"
        return f"{self.method}-w{self.bits:g}{grid}{last}{options}{source}"

    def options(self) -> list[str]:
        """Those of paper, fisher, folded and bn that are set, in the order of the name."""
        return [f.name for f in fields(self) if f.type is bool and getattr(self, f.name)]

    @property
    def folds(self) -> bool:
        """Whether BatchNorm is folded first."""
        return self.folded or (self.paper and "folded" in _PAPER.get(self.method, ()))

    @property
    def estimates_bn(self) -> bool:
        """Whether BatchNorm's statistics are estimated anew at the end."""
        return self.bn or (self.paper and "bn" in _PAPER.get(self.method, ()))

    @property
    def calibrates(self) -> bool:
        """Whether images are looked at."""
        return self.method != "nearest" or self.bn

    def is_symmetric(self, bits: Bits) -> bool:
        """Whether a layer of `bits`, which the last one has of its own, gets a symmetric grid."""
        return bits == TERNARY if self.symmetric is None else self.symmetric
