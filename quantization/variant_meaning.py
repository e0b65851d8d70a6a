"""What the name of a variant means: its method, its settings, and what it does to a network."""

from dataclasses import dataclass, replace
from typing import TypeVar

from quantization.engine import WholeNetwork
from quantization.imported import is_own
from quantization.methods import Method, Paper
from quantization.own import find_method
from quantization.rounding.grid import LEVELS, TERNARY, Bits
from quantization.variant_name import VariantName, decimal, shortest

WIDEST: Bits = max(LEVELS)
Meaning = TypeVar("Meaning", bound="VariantMeaning")


@dataclass(frozen=True)
class VariantMeaning(VariantName):
    """What follows from the parts of a name."""

    @property
    def is_control(self) -> bool:
        """Whether it is the full-precision network, changed in another way than quantization."""
        return self.noise is not None or self.zeros

    @property
    def base(self: Meaning) -> Meaning:
        """The quantized variant of which it is a control; of any other variant, itself."""
        return replace(self, noise=None, zeros=False)

    @property
    def searches(self) -> bool:
        """Whether its bits are chosen for each layer of each network."""
        return self.bits is None

    @property
    def uniform_bits(self) -> Bits:
        """The bits of all layers; `WIDEST` as long as they are not chosen."""
        return WIDEST if self.bits is None else self.bits

    def at(self: Meaning, bits: Bits) -> Meaning:
        """The same variant with these bits in all layers that it does not name."""
        symmetric = None if self.symmetric == (bits == TERNARY) else self.symmetric
        last = None if self.last_bits == bits else self.last_bits
        return replace(
            self,
            bits=bits,
            last_bits=last,
            symmetric=symmetric,
            mean_bits=None,
            aiq=None,
            greedy=False,
        )

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
    def implied(self) -> frozenset[str]:
        """The suffixes that `-paper` implies."""
        settings = self.paper_settings
        return frozenset() if settings is None else settings.implies

    @property
    def folds(self) -> bool:
        """Whether BatchNorm is folded first."""
        return self.folded or "folded" in self.implied

    @property
    def estimates_bn(self) -> bool:
        """Whether BatchNorm's statistics are re-estimated at the end."""
        return self.bn or "bn" in self.implied

    @property
    def calibrates(self) -> bool:
        """Whether it looks at images."""
        return self.weights_see_images or self.activation_bits is not None

    @property
    def weights_see_images(self) -> bool:
        """Whether its weights depend on images."""
        return self.searches or self.spec.looks_at_images or self.estimates_bn

    @property
    def layerwise(self: Meaning) -> Meaning | None:
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
            size = f"{times} times the root" if (times := shortest(self.noise)) else "the"
            return f"Gaussian noise of {size} mean square of {self.base}'s change, per layer"
        settings = self.paper_settings
        return ((settings and settings.objective) or self.spec.objective) + self._choice

    @property
    def _choice(self) -> str:
        """How its bits are chosen, in a phrase."""
        if not self.searches:
            return ""
        how = ", by the greedy search of AIQ" if self.greedy else ""
        if self.aiq is not None:
            return f"; bits per layer for AIQ's objective with lambda {decimal(self.aiq)}{how}"
        return f"; bits per layer for least loss at {decimal(self.mean_bits or 0)} on average{how}"

    def is_symmetric(self, bits: Bits) -> bool:
        """Whether a layer of `bits`, such as a last layer with its own, gets a symmetric grid."""
        return self.symmetric_by_default(bits) if self.symmetric is None else self.symmetric

    def symmetric_by_default(self, bits: Bits) -> bool:
        """Whether a layer's grid is symmetric where the name does not tell.

        It is at 8 bits beside quantized activations, because integer kernels subtract one zero
        point from the weights of all channels.
        """
        return bits == TERNARY or (bits == 8 and self.activation_bits is not None)

    @property
    def weights_name(self) -> str:
        """The name without bits of activations, which tells the weights apart from 8-bit grids."""
        return str(self).replace(f"-a{self.activation_bits}", "")
