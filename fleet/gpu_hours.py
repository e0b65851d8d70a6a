"""Hours of a GPU that a fleet would take, estimated from its operations and kernels."""

from typing import NamedTuple

# Assumed, not measured. Small images seldom keep a large GPU busier than a tenth of its tensor
# cores' peak. True float32, in which signals and quantizations are, has no tensor cores: its
# whole peak is less than that tenth, and easier to reach.
# https://www.nvidia.com/en-us/data-center/a100/
GPU = "A100"
HALF, TF32, FLOAT32 = 0.1 * 312e12, 0.1 * 156e12, 0.5 * 19.5e12  # FLOP/s
LAUNCH = 5e-6, 10e-6  # seconds until a kernel is launched from Python, assumed too
GPU_BATCH = 512  # images per batch of signals on a GPU


class Workload(NamedTuple):
    """A part of the work per model.

    Attributes:
        name: what it is.
        flop: floating-point operations.
        launches: kernels.
        rate: FLOP/s at which a GPU would do it.
    """

    name: str
    flop: int
    launches: int
    rate: float

    def seconds(self, launch: float) -> float:
        """The longer of its operations and its launches at `launch` seconds each."""
        return max(self.flop / self.rate, self.launches * launch)


def rate(precision: str | int | None, tf32: bool) -> float:
    """FLOP/s of training that we assume of a GPU.

    Args:
        precision: Lightning's name of the arithmetic; None is float32.
        tf32: whether float32 is rounded to TF32.
    """
    if "16" in str(precision):
        return HALF
    return TF32 if tf32 else FLOAT32


def gpu_line(models: int, *parts: Workload) -> str:
    """The work per model, and the hours that a GPU would take for all of them."""
    low, high = (models * sum(p.seconds(launch) for p in parts) / 3600 for launch in LAUNCH)
    work = "; ".join(
        f"{p.flop / 1e15:.3g} PFLOP and {p.launches / 1e6:,.4g} million kernels of {p.name}, at "
        f"{p.rate / 1e12:.3g} TFLOP/s"
        for p in parts
    )
    return (
        f"On a GPU, an estimate, not measured: {work}, per model; other solvers are not counted. "
        f"A part takes the longer of its operations, at these speeds assumed of an {GPU}, and its "
        f"launches, assumed to take {LAUNCH[0] * 1e6:g} to {LAUNCH[1] * 1e6:g} microseconds each: "
        f"{low:.3g} to {high:.3g} GPU hours for {models} models."
    )
