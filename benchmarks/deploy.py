"""How fast are integers in ONNX Runtime, and does arithmetic intensity predict it?

    OMP_NUM_THREADS=1 nice python -m benchmarks.deploy
    OMP_NUM_THREADS=1 nice python -m benchmarks.deploy resnet20 --batches 8 --threads 1 --rounds 3

Networks with random weights at 32x32 pixels, each in these forms, measured in turns:

    float32     BatchNorm folded, by the runtime itself: the fair baseline
    w8a8        every layer on integers
    uint8       the same with int8 weights turned into uint8, as CPUs without VNNI need it
    mixed       the same with 4 bits in the larger half of the layers, unpacked as a session starts
    aiq         as many layers as `--layers` on integers: those with most weights, whose choice
                gives the highest arithmetic intensity (AIQ's choice where accuracy says nothing)
    random      as many layers, drawn at random: the median over three draws

Then `--allocations` random choices of layers: Spearman's rank correlation between arithmetic
intensity, as AIQ counts it at that batch size, and throughput on the first number of threads.
Figures are in docs/deploy.md.
"""

import argparse
import copy
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import onnxruntime
import torch
import torchvision
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_modules.networks import build_network
from quantization.calibration import Calibration
from quantization.cost import count_layers, network_cost
from quantization.deploy import trace
from quantization.integers import DOMAIN, VERSION, mark, to_integers, translation
from quantization.onnx_session import open_session
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizedNetwork, QuantizedWeight
from quantization.sites import watch
from quantization.variant import Variant

IMAGE = (3, 32, 32)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": partial(build_network, "resnet20", 10, 3, {}),
    "resnet18": partial(build_network, "resnet18", 10, 3, {}),
    "mobilenet_v2": partial(torchvision.models.mobilenet_v2, num_classes=10),
}
DRAWS = 3  # of the random choice
UINT8 = "uint8"


class Forms:
    """A network that is traced once, and its forms with some layers on integers.

    Attributes:
        keys: weights of the layers, the largest first.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()
        images = torch.randn(32, *IMAGE, generator=torch.Generator().manual_seed(0))
        calibration = Calibration(images, lambda _: images, torch.arange(32), "members", 0)
        self.made = {
            bits: quantize_network(network, Variant.parse(f"nearest-w{bits}-a8"), calibration)[0]
            for bits in (8, 4)
        }
        self.layers = count_layers(network, images)
        self.keys = sorted(self.layers, key=lambda key: -self.layers[key].weights)
        self.model = self._trace(self.made[8])

    def _trace(self, quantized: QuantizedNetwork) -> Any:  # noqa: ANN401
        marked, ranges = copy.deepcopy(self.network), quantized.activations
        watch(marked, ranges, lambda site, tensor: mark(tensor, *ranges[site]))
        return trace(marked, IMAGE, translation(), VERSION)

    def build(self, bits: Mapping[str, int]) -> bytes:
        """A model whose layers have these bits by the key of their weight; others compute floats.

        What is added or pooled is on integers too, unless no layer is.
        """
        model = copy.deepcopy(self.model)
        weights = {
            self.network.get_parameter(key).detach().numpy().tobytes(): self.made[own].weights[key]
            for key, own in bits.items()
        }
        _unmark(model, bits)

        def find(values: Tensor) -> QuantizedWeight | None:
            return weights.get(values.numpy().tobytes())

        to_integers(model, find)
        content: bytes = model.SerializeToString()
        return content

    def intensity(self, keys: Collection[str], batch: int) -> float:
        """FLOP per byte with 8 bits in these layers, as AIQ counts."""
        bits = dict.fromkeys(keys, 8)
        return network_cost(self.layers, bits, batch=batch, counting="aiq").intensity


def _unmark(model: Any, keys: Collection[str]) -> None:  # noqa: ANN401
    """Give layers other than these their inputs unquantized, and additions and pools, if none."""
    marked = {n.output[0]: n.input[0] for n in model.graph.node if n.domain == DOMAIN}
    for node in model.graph.node:
        is_layer = node.op_type in ("Conv", "Gemm")
        if (is_layer and node.input[1] not in keys) or not keys:
            for position, name in enumerate(node.input):
                node.input[position] = marked.get(name, name)


def measure(
    models: Mapping[str, bytes], batch: int, threads: int, rounds: int, seconds: float
) -> dict[str, float]:
    """Median seconds of a batch of each model, over rounds in which all take turns."""
    images = {"images": torch.randn(batch, *IMAGE).numpy()}
    sessions = {
        name: open_session(model, threads, precise=True if name == UINT8 else None)
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for session in sessions.values():
        session.run(None, images)
    for _ in range(rounds):
        for name, session in sessions.items():
            begun, calls = time.perf_counter(), 0
            while time.perf_counter() < begun + seconds or not calls:
                session.run(None, images)
                calls += 1
            times[name].append((time.perf_counter() - begun) / calls)
    return {name: median(values) for name, values in times.items()}


def choose_forms(forms: Forms, layers: int, rng: random.Random) -> dict[str, bytes]:
    """The forms that are compared, by name."""
    keys, half = forms.keys, len(forms.keys) // 2
    count = min(layers, len(keys))
    bits = {
        "float32": {},
        "w8a8": dict.fromkeys(keys, 8),
        UINT8: dict.fromkeys(keys, 8),
        "mixed": dict.fromkeys(keys[:half], 4) | dict.fromkeys(keys[half:], 8),
        "aiq": dict.fromkeys(keys[:count], 8),
    }
    for draw in range(DRAWS):
        bits[f"random {draw}"] = dict.fromkeys(rng.sample(keys, count), 8)
    return {name: forms.build(own) for name, own in bits.items()}


def compare(forms: Forms, models: Mapping[str, bytes], arguments: argparse.Namespace) -> None:
    """Print throughput and latency of each form, beside those of float32."""
    for threads in arguments.threads:
        for batch in arguments.batches:
            found = measure(models, batch, threads, arguments.rounds, arguments.seconds)
            draws = [found.pop(f"random {draw}") for draw in range(DRAWS)]
            for name, seconds in (found | {"random": median(draws)}).items():
                print(
                    f"  {threads} threads, batch {batch}, {name}: {1e3 * seconds:.2f} ms,"
                    f" {batch / seconds:,.0f} images/s, x {found['float32'] / seconds:.2f}"
                )


def correlate(forms: Forms, arguments: argparse.Namespace, rng: random.Random) -> None:
    """Print how arithmetic intensity and throughput of random allocations go together."""
    choices = [
        rng.sample(forms.keys, rng.randint(1, len(forms.keys)))
        for _ in range(arguments.allocations)
    ]
    models = {str(n): forms.build(dict.fromkeys(own, 8)) for n, own in enumerate(choices)}
    threads = arguments.threads[0]
    for batch in arguments.batches:
        found = measure(models, batch, threads, arguments.rounds, arguments.seconds)
        speeds = [batch / seconds for seconds in found.values()]
        rank = partial(_rank, speeds)
        intensities = [forms.intensity(own, batch) for own in choices]
        flops = [sum(forms.layers[key].flops for key in own) for own in choices]
        print(
            f"  {threads} threads, batch {batch}, {len(choices)} allocations, rank correlation of"
            f" throughput with arithmetic intensity {rank(intensities)}, with the number of layers"
            f" on integers {rank([len(own) for own in choices])}, with their FLOPs {rank(flops)}"
        )


def _rank(speeds: Sequence[float], other: Sequence[float]) -> str:
    result = spearmanr(other, speeds)
    return f"{result.statistic:.2f} (p = {result.pvalue:.2g})"


def main() -> None:
    """Print a block per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=[], choices=[*NETWORKS, []])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement, at least")
    parser.add_argument("--layers", type=int, default=12, help="on integers in aiq and random")
    parser.add_argument("--allocations", type=int, default=20, help="0 leaves them out")
    arguments = parser.parse_args()
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
    for name in arguments.networks or NETWORKS:
        torch.manual_seed(0)
        rng, forms = random.Random(0), Forms(NETWORKS[name]())
        models = choose_forms(forms, arguments.layers, rng)
        sizes = ", ".join(f"{key} {len(model):,}" for key, model in models.items())
        print(f"{name}: {len(forms.keys)} layers; bytes: {sizes}")
        full, every = (forms.intensity(keys, 1) for keys in ((), forms.keys))
        print(f"  arithmetic intensity at batch 1: {full:.2f}, all at 8 bits {every:.2f}")
        compare(forms, models, arguments)
        if arguments.allocations:
            correlate(forms, arguments, rng)


if __name__ == "__main__":
    main()
