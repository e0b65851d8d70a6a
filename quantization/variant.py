"""The name of one quantized state of a network, parsed and printed here and nowhere else."""

import math
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple

from quantization.calibration import CalibrationSource
from quantization.engine import WholeNetwork
from quantization.imported import is_own
from quantization.methods import METHODS, Method, Paper
from quantization.own import find_method, try_method
from quantization.rounding.grid import TERNARY, Bits, levels

UNQUANTIZED: Bits = 32  # bits of a layer that stays at full precision
OPTIONS = ("paper", "fisher", "folded", "bn")  # in the order of the name

_NUMBER = r"\d+(?:\.\d+)?"
_NAME = re.compile(
    rf"([\w.]+)-w({_NUMBER})(?:-(sym|asym))?(?:-last({_NUMBER}))?"
    rf"{''.join(f'(-{option})?' for option in OPTIONS)}(?:-(nonmembers|heldout))?"
    rf"(?:-(?P<noise>noise)(?P<factor>{_NUMBER})?|-(?P<zeros>zeros))?"
)
_SYMMETRIC = {None: None, "sym": True, "asym": False}
_SOURCES: dict[str | None, CalibrationSource] = {
    None: "members",
    "nonmembers": "nonmembers",
    "heldout": "heldout",
}


@dataclass(frozen=True)
class Variant:
    """How a network is quantized: `nearest-w2`, `brecq-w1.58-last8`, `obc-w2-sym-last8-bn`.

    A name that ends in `-noise` or `-zeros` is a control of the variant before that: the
    full-precision network, changed in another way; see `controls`.

    Two variants that mean the same have the same name, because files are found by it: a suffix that
    repeats a default is refused.

    Attributes:
        method: name of the quantizer in `METHODS`, or the import path of a user's own.
        bits: bits of every convolution and linear layer; 1.58 is ternary.
        last_bits: bits of the last such layer, the classifier's head; None for `bits`, 32 for full
            precision.
        symmetric: the grid of every layer; None for the default: symmetric for ternary layers,
            where it is exactly optimal, and asymmetric for all others, where it is far more
            accurate at 2 bits.
        paper: use the settings of arXiv:2512.15335 instead of the fast ones.
        fisher: weight BRECQ's error by the diagonal of the Fisher information.
        folded: fold BatchNorm into the convolution before it first.
        bn: re-estimate BatchNorm's statistics afterwards.
        calibration: the part of the data that calibration images come from.
        noise: of a control with Gaussian noise, its standard deviation in units of the root mean
            square of each layer's change.
        zeros: a control with zeros where quantization sets weights to zero.

    Raises:
        ValueError: the method or the bits do not exist, a field repeats a default or changes
            nothing for the method, or there is no such control.
    """

    method: str
    bits: Bits
    last_bits: Bits | None = None
    symmetric: bool | None = None
    paper: bool = False
    fisher: bool = False
    folded: bool = False
    bn: bool = False
    calibration: CalibrationSource = "members"
    noise: float | None = None
    zeros: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not exist or has a shorter name."""
        find_method(self.method)
        levels(self.bits)
        if self.last_bits not in (None, UNQUANTIZED):
            levels(self.last_bits)
        for bits in {self.bits, self.last_bits} - {None, UNQUANTIZED}:
            try_method(self.method, bits)
        if self.last_bits == self.bits:
            raise ValueError(
                f"`{self}`: the last layer has {self.bits:g} bits anyway; remove"
                f" `-last{self.bits:g}`."
            )
        if self.symmetric == (self.bits == TERNARY):
            kind = "sym" if self.symmetric else "asym"
            raise ValueError(
                f"`{self}`: {kind} is the default at {self.bits:g} bits; remove `-{kind}`."
            )
        if self.engine and (self.last_bits is not None or self.symmetric is not None):
            raise ValueError(
                f"`{self}`: {self.method} quantizes whole networks and is given the bits alone;"
                f" write `{self.method}-w{self.bits:g}`."
            )
        self._check_options()
        if self.is_control:
            self._check_control()

    def _check_options(self) -> None:
        options = self.options()
        for option in options:
            if option not in self.spec.suffixes:
                methods = ", ".join(name for name, m in METHODS.items() if option in m.suffixes)
                raise ValueError(
                    f"`{self}`: `-{option}` changes nothing for {self.method}, only for {methods}."
                )
        if repeated := self._implied & {*options}:
            option = min(repeated)
            raise ValueError(f"`{self}`: `-paper` implies `-{option}` here; remove `-{option}`.")
        if self.folds and self.estimates_bn:
            raise ValueError(
                f"`{self}`: a folded BatchNorm has no statistics to re-estimate. Remove `-bn` or"
                " `-folded`."
            )
        if self.calibration != "members" and not self.calibrates:
            raise ValueError(
                f"`{self}`: {self.method} looks at no images; remove `-{self.calibration}`."
            )

    def _check_control(self) -> None:
        if self.noise is not None and self.zeros:
            raise ValueError(f"`{self}`: a control has noise or zeros; remove one of them.")
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise ValueError(
                f"`{self}`: noise needs a finite factor above 0, got {self.noise:g}; without noise"
                " it is `full`."
            )
        if self.engine:
            raise ValueError(
                f"`{self}`: {self.method} quantizes whole networks, and a control is made layer by"
                f" layer; write `{self.base}`."
            )
        if self.folds or self.estimates_bn:
            verb, option = ("folds", "folded") if self.folds else ("re-estimates", "bn")
            suffix = "paper" if option in self._implied else option
            raise ValueError(
                f"`{self}`: a control keeps BatchNorm as it was trained, and `-{suffix}` {verb} it"
                f" for {self.method}; remove `-{suffix}`."
            )

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Read a name such as `nearest-w2-sym-last8`.

        Raises:
            ValueError: the name is malformed, or no such variant exists.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                "A variant is named METHOD-wBITS[-sym|-asym][-lastBITS][-paper][-fisher][-folded]"
                "[-bn][-nonmembers|-heldout][-noise[FACTOR]|-zeros], such as `adaround-w2-last8`,"
                f" got `{name}`."
            )
        method, bits, grid, last, *options, source, noise, factor, zeros = match.groups()
        if factor and float(factor) == 1:
            raise ValueError(f"`{name}`: 1 is the default; write `-noise`.")
        paper, fisher, folded, bn = map(bool, options)
        last_bits = float(last) if last else None
        symmetric, calibration = _SYMMETRIC[grid], _SOURCES[source]
        kind = method, float(bits), last_bits, symmetric, paper, fisher, folded, bn, calibration
        return cls(*kind, float(factor or 1) if noise else None, bool(zeros))

    def __str__(self) -> str:
        """The name that `parse` reads."""
        grid = {None: "", True: "-sym", False: "-asym"}[self.symmetric]
        last = "" if self.last_bits is None else f"-last{self.last_bits:g}"
        options = "".join(f"-{option}" for option in self.options())
        source = "" if self.calibration == "members" else f"-{self.calibration}"
        control = "-zeros" if self.zeros else ""
        if self.noise is not None:
            control = f"-noise{_shortest(self.noise)}{control}"
        return f"{self.method}-w{self.bits:g}{grid}{last}{options}{source}{control}"

    def options(self) -> list[str]:
        """The `OPTIONS` that are set, in the order of the name."""
        return [option for option in OPTIONS if getattr(self, option)]

    @property
    def is_control(self) -> bool:
        """Whether it is the full-precision network, changed in another way than quantization."""
        return self.noise is not None or self.zeros

    @property
    def base(self) -> "Variant":
        """The quantized variant of which it is a control; of any other variant, itself."""
        return replace(self, noise=None, zeros=False)

    @property
    def spec(self) -> Method:
        """What its method is."""
        return find_method(self.method)

    @property
    def own(self) -> bool:
        """Whether its method is a user's own."""
        return is_own(self.method)

    @property
    def engine(self) -> WholeNetwork | None:
        """Its method, if that quantizes whole networks instead of layers."""
        return self.spec.solve if isinstance(self.spec.solve, WholeNetwork) else None

    @property
    def has_codes(self) -> bool:
        """Whether its weights are codes, not any numbers."""
        return not (self.engine or self.is_control)

    @property
    def paper_settings(self) -> Paper | None:
        """What `-paper` means for its method, if it is set."""
        return self.spec.paper if self.paper else None

    @property
    def _implied(self) -> frozenset[str]:
        settings = self.paper_settings
        return frozenset() if settings is None else settings.implies

    @property
    def folds(self) -> bool:
        """Whether BatchNorm is folded first."""
        return self.folded or "folded" in self._implied

    @property
    def estimates_bn(self) -> bool:
        """Whether BatchNorm's statistics are re-estimated at the end."""
        return self.bn or "bn" in self._implied

    @property
    def calibrates(self) -> bool:
        """Whether it looks at images."""
        return self.spec.looks_at_images or self.estimates_bn

    @property
    def layerwise(self) -> "Variant | None":
        """The variant with the same codes on a network without blocks; see `Method`.

        The published loops differ in their regulariser, and `-fisher` weights errors.
        """
        method = self.spec.layerwise
        if method is None or self.paper or self.fisher:
            return None
        return replace(self, method=method)

    @property
    def objective(self) -> str:
        """What it minimises, or what a control is instead, in a phrase."""
        if self.zeros:
            return f"zero where {self.base} has zeros, all other weights as trained"
        if self.noise is not None:
            size = f"{times} times the root" if (times := _shortest(self.noise)) else "the"
            return f"Gaussian noise of {size} mean square of {self.base}'s change, per layer"
        settings = self.paper_settings
        return (settings and settings.objective) or self.spec.objective

    def is_symmetric(self, bits: Bits) -> bool:
        """Whether a layer of `bits`, such as a last layer with its own, gets a symmetric grid."""
        return bits == TERNARY if self.symmetric is None else self.symmetric


def _shortest(factor: float) -> str:
    """A factor as `Variant.parse` reads it: 0.5, and nothing for 1."""
    return "" if factor == 1 else f"{Decimal(repr(factor)).normalize():f}"


class Control(NamedTuple):
    """What a control is one of.

    Attributes:
        base: name of the quantized variant.
        noise: its factor of noise; None for zeros.
    """

    base: str
    noise: float | None


def control_of(name: str) -> Control | None:
    """What a control is one of, by its name alone; None for other names.

    No method is looked up, because an audit imports no quantizer of a user's own.
    """
    match = _NAME.fullmatch(name)
    if match is None or not (match["noise"] or match["zeros"]):
        return None
    noise = float(match["factor"] or 1) if match["noise"] else None
    return Control(name[: match.start("noise" if match["noise"] else "zeros") - 1], noise)


def wanted(variant: Variant, images: int, rounds: int) -> tuple[int, int]:
    """Images and augmented rounds of a variant: the paper's numbers for `-paper`, else as asked."""
    settings = variant.paper_settings
    if settings is None:
        return images, rounds
    return settings.images, rounds if settings.rounds is None else settings.rounds


def check_count(variant: Variant, images: int) -> None:
    """Raise ValueError if a variant needs more images than there are."""
    fewest, purpose = 1, "to look at"
    if variant.estimates_bn:
        fewest, purpose = 2, "to estimate BatchNorm's statistics from"
    settings = variant.paper_settings
    if settings is not None and settings.loop is not None:
        fewest, purpose = settings.loop.batch, "for a batch of its loop"
    if images < fewest:
        raise ValueError(
            f"`{variant}` needs at least {fewest} calibration images {purpose}, got {images}."
            " Enlarge the pool" + ("." if variant.paper else ", or raise `--calibration.images`.")
        )
