"""A quantized state of a network that exists, by its name, and what it needs."""

import math
from dataclasses import dataclass

from quantization.methods import METHODS
from quantization.own import try_method
from quantization.rounding.grid import Bits, levels
from quantization.variant_meaning import VariantMeaning

UNQUANTIZED: Bits = 32  # bits of a layer that stays at full precision
ACTIVATION_BITS = (8, 4)


@dataclass(frozen=True)
class Variant(VariantMeaning):
    """How a network is quantized: `nearest-w2`, `brecq-w1.58-last8`, `obc-w2-sym-last8-bn`.

    Bits are the same in all layers, or chosen for each: `adaround-mix3` spends 3 bits per weight on
    average, and `nearest-aiq0.9` minimises the objective of AIQ. Its attributes are those of
    `VariantName`.

    A name that ends in `-noise` or `-zeros` is a control of the variant before that: the
    full-precision network, changed in another way; see `controls`.

    Two variants that mean the same have the same name, because files are found by it: a suffix that
    repeats a default is refused.

    Raises:
        ValueError: the method or the bits do not exist, a field repeats a default or changes
            nothing for the method, or there is no such control.
    """

    def __post_init__(self) -> None:
        """Refuse what does not exist or has a shorter name."""
        _ = self.spec  # which must exist
        self._check_bits()
        if self.bits is not None and self.symmetric == self.symmetric_by_default(self.bits):
            kind = "sym" if self.symmetric else "asym"
            raise ValueError(
                f"`{self}`: {kind} is the default at {self.bits:g} bits; remove `-{kind}`."
            )
        if self.engine:
            self._check_engine()
        self._check_options()
        if self.is_control:
            self._check_control()

    def _check_bits(self) -> None:
        if (self.bits, self.mean_bits, self.aiq).count(None) != 2:
            raise ValueError(
                "A variant has one of `bits`, `mean_bits` and `aiq`, got"
                f" {self.bits}, {self.mean_bits} and {self.aiq}."
            )
        if self.greedy and not self.searches:
            raise ValueError(f"`{self}`: only a search can be greedy; remove `greedy`.")
        if self.mean_bits is not None and not 0 < self.mean_bits < math.inf:
            raise ValueError(
                f"`{self}`: bits per weight must be above 0 and finite, got {self.mean_bits:g}."
            )
        if self.aiq is not None and not 0 < self.aiq < 1:
            raise ValueError(
                f"`{self}`: lambda must lie between 0 (accuracy alone) and 1 (arithmetic intensity"
                f" alone), got {self.aiq:g}."
            )
        if self.activation_bits not in (None, *ACTIVATION_BITS):
            raise ValueError(
                f"`{self}`: activations have 8 or 4 bits, got {self.activation_bits}; write `-a8`."
            )
        if self.bits is not None:
            levels(self.bits)
        if self.last_bits not in (None, UNQUANTIZED):
            levels(self.last_bits)
        for bits in {self.bits, self.last_bits} - {None, UNQUANTIZED}:
            try_method(self.method, bits)
        if self.bits is not None and self.last_bits == self.bits:
            raise ValueError(
                f"`{self}`: the last layer has {self.bits:g} bits anyway; remove"
                f" `-last{self.bits:g}`."
            )

    def _check_engine(self) -> None:
        """Refuse what a quantizer of whole networks is not told."""
        asked = (self.last_bits, self.symmetric, self.mean_bits, self.aiq, self.activation_bits)
        if any(part is not None for part in asked):
            bits = "BITS" if self.bits is None else f"{self.bits:g}"
            raise ValueError(
                f"`{self}`: {self.method} quantizes whole networks and is given the bits alone;"
                f" write `{self.method}-w{bits}`."
            )

    def _check_options(self) -> None:
        options = self.options()
        for option in options:
            if option not in self.spec.suffixes:
                methods = ", ".join(name for name, m in METHODS.items() if option in m.suffixes)
                raise ValueError(
                    f"`{self}`: `-{option}` changes nothing for {self.method}, only for {methods}."
                )
        if repeated := self.implied & {*options}:
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
        if self.activation_bits is not None:
            bits = f"-a{self.activation_bits}"
            raise ValueError(
                f"`{self}`: a control keeps activations at full precision; remove `{bits}`."
            )
        if self.folds or self.estimates_bn:
            verb, option = ("folds", "folded") if self.folds else ("re-estimates", "bn")
            suffix = "paper" if option in self.implied else option
            raise ValueError(
                f"`{self}`: a control keeps BatchNorm as it was trained, and `-{suffix}` {verb} it"
                f" for {self.method}; remove `-{suffix}`."
            )


def wanted(variant: Variant, images: int, rounds: int) -> tuple[int, int]:
    """Images and augmented rounds of a variant: the paper's numbers for `-paper`, else as asked."""
    settings = variant.paper_settings
    if settings is None:
        return images, rounds
    return settings.images, rounds if settings.rounds is None else settings.rounds


def check_count(variant: Variant, images: int) -> None:
    """Raise ValueError if a variant needs more images than there are."""
    fewest, purpose = 1, "to look at"
    if variant.searches:
        fewest, purpose = 2, "to choose bits by one half and check them on the other"
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
