"""What sharing between the variants of one network saves, in CPU seconds of one thread.

    python -m benchmarks.shared convnet resnet20

The variants of `recipes/digits.yaml` on an untrained network, each made alone and then all with
one `Shared`, in turns. The codes are compared. On one core of a shared AMD EPYC (Zen 4), three
rounds of `convnet` and one of `resnet8`:

    convnet nearest: 0.06 s alone, 0.05 s together
    convnet adaround: 0.62 s alone, 0.58 s together
    convnet brecq: 0.61 s alone, 0.02 s together
    convnet obc: 0.77 s alone, 0.73 s together
    convnet gptq: 0.23 s alone, 0.19 s together
    convnet: 2.31 s alone, 1.57 s together, 1.47 x
    resnet8 obc: 6.86 s alone, 4.76 s together
    resnet8: 38.80 s alone, 37.59 s together, 1.03 x

Copying and tracing a network takes 3.5 ms per variant of a `convnet`, so neither is shared. Nor are
full-precision outputs: those of 1,024 images take about a gigabyte in a resnet20.
"""

import argparse
import time
from statistics import median

import torch

from lightning_modules.networks import build_network
from quantization.calibration import Calibration
from quantization.methods import METHODS
from quantization.quantize import quantize_network
from quantization.shared import Shared
from quantization.variant import Variant

BITS = ("4", "2", "1.58")
SHAPES = {"convnet": (150, 1, 8, 8)}  # of the calibration images; (512, 3, 32, 32) by default


def quantize(
    network: torch.nn.Module, images: torch.Tensor, together: bool
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """CPU seconds of each method over all bits, and all codes."""
    indices = torch.arange(len(images))
    calibration = Calibration(images, lambda _: images, indices, "members", 0)
    shared, seconds, codes = Shared(), dict[str, float](), list[torch.Tensor]()
    for method in METHODS:
        started = time.process_time()
        for bits in BITS:
            variant, shared = Variant.parse(f"{method}-w{bits}"), shared if together else Shared()
            made, _ = quantize_network(network, variant, calibration, shared=shared)
            codes += [weight.codes for weight in made.weights.values()]
        seconds[method] = time.process_time() - started
    return seconds, codes


def main() -> None:
    """Print a line per network and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["convnet"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.networks:
        torch.manual_seed(0)
        images = torch.randn(SHAPES.get(name, (512, 3, 32, 32)))
        network = build_network(name, 10, images.shape[1], {}).eval()
        runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            alone, together = (quantize(network, images, way) for way in (False, True))
            if not all(map(torch.equal, alone[1], together[1])):
                raise RuntimeError(f"{name}: sharing changed codes.")
            runs[False].append(alone[0])
            runs[True].append(together[0])
        for method in METHODS:
            before, after = (median(run[method] for run in runs[way]) for way in (False, True))
            print(f"{name} {method}: {before:.2f} s alone, {after:.2f} s together")
        before, after = (median(sum(r.values()) for r in runs[way]) for way in (False, True))
        print(f"{name}: {before:.2f} s alone, {after:.2f} s together, {before / after:.2f} x")


if __name__ == "__main__":
    main()
