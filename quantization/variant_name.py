"""The name of one quantized state of a network, parsed and printed here and nowhere else."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple, TypeVar

from quantization.calibration import CalibrationSource
from quantization.rounding.grid import Bits

OPTIONS = ("paper", "fisher", "folded", "bn")  # in the order of the name

_NUMBER = r"\d+(?:\.\d+)?"
_NAME = re.compile(
    rf"(?P<method>[\w.]+)"
    rf"-(?:w(?P<bits>{_NUMBER})|(?:mix(?P<mean>{_NUMBER})|aiq(?P<aiq>{_NUMBER}))(?P<greedy>-greedy)?)"
    rf"(?:-a(?P<activations>\d+))?(?:-(?P<grid>sym|asym))?(?:-last(?P<last>{_NUMBER}))?"
    rf"{''.join(f'(?P<{option}>-{option})?' for option in OPTIONS)}"
    rf"(?:-(?P<source>nonmembers|heldout))?"
    rf"(?:-(?P<noise>noise)(?P<factor>{_NUMBER})?|-(?P<zeros>zeros))?"
)
_NUMBERS = ("bits", "mean", "aiq", "last")  # groups of the pattern
_SYMMETRIC = {None: None, "sym": True, "asym": False}
_SOURCES: dict[str | None, CalibrationSource] = {
    None: "members",
    "nonmembers": "nonmembers",
    "heldout": "heldout",
}

Named = TypeVar("Named", bound="VariantName")


@dataclass(frozen=True)
class VariantName:
    """The parts of a name, whatever they mean: `nearest-w2`, `adaround-mix3-a8`, `obc-w2-last8-bn`.

    Attributes:
        method: name of the quantizer in `METHODS`, or the import path of a user's own.
        bits: bits of every convolution and linear layer; 1.58 is ternary. None if they are chosen
            per layer, by `mean_bits` or by `aiq`.
        last_bits: bits of the last such layer, the classifier's head; None for the bits of all, 32
            for full precision.
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
        mean_bits: bits per weight to spend on average, with scales and zero points, where they
            lose least.
        aiq: weight of arithmetic intensity against accuracy by which bits are chosen: AIQ's
            lambda.
        greedy: choose bits by AIQ's greedy search instead of exactly.
        activation_bits: bits of activations; None for full precision.
    """

    method: str
    bits: Bits | None
    last_bits: Bits | None = None
    symmetric: bool | None = None
    paper: bool = False
    fisher: bool = False
    folded: bool = False
    bn: bool = False
    calibration: CalibrationSource = "members"
    noise: float | None = None
    zeros: bool = False
    mean_bits: float | None = None
    aiq: float | None = None
    greedy: bool = False
    activation_bits: int | None = None

    @classmethod
    def parse(cls: type[Named], name: str) -> Named:
        """Read a name such as `nearest-w2-sym-last8`.

        Raises:
            ValueError: the name is malformed, or no such variant exists.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                "A variant is named METHOD-wBITS, METHOD-mixBITS[-greedy] or"
                " METHOD-aiqLAMBDA[-greedy], then [-aBITS][-sym|-asym][-lastBITS][-paper][-fisher]"
                "[-folded][-bn][-nonmembers|-heldout][-noise[FACTOR]|-zeros], such as"
                f" `adaround-w2-last8`, got `{name}`."
            )
        if match["factor"] and float(match["factor"]) == 1:
            raise ValueError(f"`{name}`: 1 is the default; write `-noise`.")
        number = {key: float(value) if (value := match[key]) else None for key in _NUMBERS}
        activations = match["activations"]
        return cls(
            match["method"],
            number["bits"],
            last_bits=number["last"],
            symmetric=_SYMMETRIC[match["grid"]],
            paper=match["paper"] is not None,
            fisher=match["fisher"] is not None,
            folded=match["folded"] is not None,
            bn=match["bn"] is not None,
            calibration=_SOURCES[match["source"]],
            noise=float(match["factor"] or 1) if match["noise"] else None,
            zeros=match["zeros"] is not None,
            mean_bits=number["mean"],
            aiq=number["aiq"],
            greedy=match["greedy"] is not None,
            activation_bits=int(activations) if activations else None,
        )

    def __str__(self) -> str:
        """The name that `parse` reads."""
        last = "" if self.last_bits is None else f"-last{self.last_bits:g}"
        options = "".join(f"-{option}" for option in self.options())
        source = "" if self.calibration == "members" else f"-{self.calibration}"
        control = "-zeros" if self.zeros else ""
        if self.noise is not None:
            control = f"-noise{shortest(self.noise)}{control}"
        return f"{self.method}-{self.how_many_bits()}{last}{options}{source}{control}"

    def how_many_bits(self) -> str:
        """The part of the name that tells the bits and the grid: `w4-a8-sym`."""
        if self.mean_bits is not None:
            bits = f"mix{decimal(self.mean_bits)}"
        elif self.aiq is not None:
            bits = f"aiq{decimal(self.aiq)}"
        else:
            bits = f"w{self.bits:g}"
        greedy = "-greedy" if self.greedy else ""
        activations = "" if self.activation_bits is None else f"-a{self.activation_bits}"
        grid = {None: "", True: "-sym", False: "-asym"}[self.symmetric]
        return f"{bits}{greedy}{activations}{grid}"

    def options(self) -> list[str]:
        """The `OPTIONS` that are set, in the order of the name."""
        return [option for option in OPTIONS if getattr(self, option)]


def decimal(number: float) -> str:
    """A number in digits, as `VariantName.parse` reads it: 2.5, and 3 for 3.0."""
    return f"{Decimal(repr(number)).normalize():f}"


def shortest(factor: float) -> str:
    """The factor of a control's noise: 0.5, and nothing for 1."""
    return "" if factor == 1 else decimal(factor)


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
