"""AIQ's table (arXiv:2512.14090) again: bits for a ResNet-20 by its greedy search, and exactly.

    OMP_NUM_THREADS=1 python -m benchmarks.aiq --root path/to/cifar10 --epochs 10

`--root` has `train/CLASS/*` and `test/CLASS/*`. The network is trained on every second of the
training images; losses are measured on the others, which the authors measured on the test set.
All rounding is theirs: symmetric, per output channel, to nearest, without a search for the range.
Shortcuts keep full precision and count in the intensity, bytes are theirs (no scales).

Greedy evaluates up to 420 allocations, each on `--images` images. The exact choice measures 40
single layers on the same images, and solves for the sum of their losses. Both minimise -lambda
AI / 60 + (1 - lambda) points lost / 10; the value at the end is that of a full evaluation.

`--images 500 --tested 2000 --epochs 6`, beside other work:

                            test %       AI objective    32/8/4                      search
    FP32                     62.30   29.849  -0.44774    20/0/0                           -
    INT8                     62.25   42.302  -0.63053    0/20/0                           -
    INT4                     62.15   45.463  -0.67195    0/0/20                           -
    losses of single layers: 63.4 s, once for both by the sum
    exact                    62.60   44.465  -0.65497   0/10/10       0.00 s, 0 evaluations
    greedy on the sum        62.60   44.465  -0.65497   0/10/10       0.03 s, 0 evaluations
    greedy, authors'         61.70   43.852  -0.65778    0/7/13   657.54 s, 421 evaluations

The intensities of FP32, INT8 and INT4 are the published ones. By its own objective, the sum, the
exact choice is that of the greedy search on it. By a full evaluation 4 bits everywhere has the best
objective: on the 500 images it loses 1.0 points, the choice by the sum 1.2, the authors' none.
"""

import argparse
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules import ImageFolder
from lightning_modules.networks import build_network
from quantization.cost import LayerCost, count_layers, network_cost
from quantization.knapsack import Item, Selection, find_frontier, greedy
from quantization.rounding.grid import Bits

WIDTHS: tuple[Bits, ...] = (32, 8, 4)
BATCH = 256  # images per evaluation pass


class Data(NamedTuple):
    """Normalised images and labels."""

    images: Float[Tensor, "images channels height width"]
    labels: Int64[Tensor, " images"]


def read(root: str, count: int) -> tuple[Data, Data, Data]:
    """Images to train on, to choose bits by, and to test on."""
    data = ImageFolder(root=Path(root), pool_size=count)
    data.prepare_data()
    data.setup("fit")
    batches = [*data.pool_batches("identity")], [*data.test_batches()]
    parts = [
        Data(torch.cat([b.images for b in part]), torch.cat([b.labels for b in part]))
        for part in batches
    ]
    pool, test = parts  # sorted by class
    return Data(*(part[::2] for part in pool)), Data(*(part[1::2] for part in pool)), test


def thin(data: Data, count: int) -> Data:
    """At most so many images, evenly from all: they are sorted by class."""
    chosen = torch.linspace(0, len(data.labels) - 1, min(count, len(data.labels))).long()
    return Data(data.images[chosen], data.labels[chosen])


def train(data: Data, epochs: int, seed: int) -> nn.Module:
    """A ResNet-20, by SGD with momentum and a cosine."""
    torch.manual_seed(seed)
    network = build_network("resnet20", 10, 3, {})
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(data.labels)), 128):
            images = data.images[batch]
            if torch.rand(()) < 0.5:
                images = images.flip(-1)
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(network(images), data.labels[batch]))
            optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Accuracy in percent."""
    logits = torch.cat([network(images) for images in torch.split(data.images, BATCH)])
    return 100 * (logits.argmax(1) == data.labels).double().mean().item()


def round_symmetric(weight: Tensor, bits: Bits) -> Tensor:
    """The authors' rounding: steps of the largest magnitude over 2^(bits - 1) - 1."""
    if bits == 32:
        return weight
    top = 2 ** (int(bits) - 1) - 1
    step = weight.flatten(1).abs().amax(1).clamp(min=1e-8).view(-1, *[1] * (weight.ndim - 1)) / top
    rounded: Tensor = (weight / step).round().clamp(-top, top) * step
    return rounded


class Choosing:
    """Allocations of bits to one network, and what they are worth.

    Args:
        network: trained.
        held: images that no evaluation of the result uses.
        weight: lambda.
    """

    def __init__(self, network: nn.Module, held: Data, weight: float) -> None:
        self.network, self.held, self.weight = network, held, weight
        self.work, self.evaluations = copy.deepcopy(network), 0
        self.layers: Mapping[str, LayerCost] = count_layers(network, held.images[:1])
        self.keys = [key for key in self.layers if "downsample" not in key]
        self.full = accuracy(network, held)

    def bits(self, selection: Selection) -> dict[str, Bits]:
        """Bits of every weight by its key."""
        return {k: WIDTHS[option] for k, option in zip(self.keys, selection, strict=True)}

    def intensity(self, selection: Selection) -> float:
        """Arithmetic intensity as the authors count."""
        return network_cost(self.layers, self.bits(selection), counting="aiq").intensity

    @torch.no_grad()
    def quantized(self, selection: Selection) -> nn.Module:
        """The network with rounded weights."""
        for key, own in self.bits(selection).items():
            weight = self.network.get_parameter(key)
            self.work.get_parameter(key).copy_(round_symmetric(weight, own))
        return self.work

    def lost(self, selection: Selection) -> float:
        """Points of accuracy that a full evaluation finds lost."""
        self.evaluations += 1
        return max(0.0, self.full - accuracy(self.quantized(selection), self.held))

    def value(self, selection: Selection, lost: float) -> float:
        """AIQ's objective."""
        gain = self.weight * self.intensity(selection) / 60
        return (1 - self.weight) * lost / 10 - gain

    def objective(self, selection: Selection) -> float:
        """AIQ's objective by a full evaluation."""
        return self.value(selection, self.lost(selection))

    def items(self) -> list[Item]:
        """Bytes of every layer at every width, and the accuracy that it loses alone."""
        items = []
        for place, key in enumerate(self.keys):
            losses = [0.0]
            for option in range(1, len(WIDTHS)):
                single = [0] * len(self.keys)
                single[place] = option
                losses.append(self.lost(single))
            weights = self.layers[key].weights
            items.append(Item(key, [int(weights * bits // 8) for bits in WIDTHS], losses))
        return items

    def by_sum(self, items: Sequence[Item], selection: Selection) -> float:
        """AIQ's objective by the sum of what layers lose alone."""
        pairs = zip(items, selection, strict=True)
        return self.value(selection, sum(item.losses[option] for item, option in pairs))


def find_exact(choosing: Choosing, items: Sequence[Item]) -> Selection:
    """The best allocation by the sum."""
    frontier = find_frontier(items)
    points = [frontier.selection(point) for point in range(len(frontier.costs))]
    return min(points, key=partial(choosing.by_sum, items))


def print_line(name: str, choosing: Choosing, selection: Selection, test: Data, cost: str) -> None:
    """One line of the table."""
    quantized = choosing.quantized(selection)
    value = choosing.value(selection, max(0.0, choosing.full - accuracy(quantized, choosing.held)))
    counts = [selection.count(option) for option in range(len(WIDTHS))]
    print(
        f"{name:<22}{accuracy(quantized, test):>8.2f}{choosing.intensity(selection):>9.3f}"
        f"{value:>10.5f}{'/'.join(map(str, counts)):>10}{cost:>28}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--pool", type=int, default=20_000, help="training images, half held out")
    parser.add_argument("--images", type=int, default=2_000, help="held-out images per evaluation")
    parser.add_argument("--tested", type=int, default=10_000, help="test images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--weight", type=float, default=0.9, help="lambda")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    trained, held, test = read(asked.root, asked.pool)
    held, test = thin(held, asked.images), thin(test, asked.tested)
    choosing = Choosing(train(trained, asked.epochs, asked.seed), held, asked.weight)
    layers = len(choosing.keys)
    print(f"{'':<22}{'test %':>8}{'AI':>9}{'objective':>10}{'32/8/4':>10}{'search':>28}")
    for option, bits in enumerate(WIDTHS):
        print_line("FP32" if bits == 32 else f"INT{bits}", choosing, [option] * layers, test, "-")
    started = time.perf_counter()
    items, start = choosing.items(), [0] * layers
    print(
        f"losses of single layers: {time.perf_counter() - started:.1f} s, once for both by the sum"
    )
    widths = [len(WIDTHS)] * layers
    searches: dict[str, Callable[[], Selection]] = {
        "exact": partial(find_exact, choosing, items),
        "greedy on the sum": lambda: greedy(start, widths, partial(choosing.by_sum, items)),
        "greedy, authors'": lambda: greedy(start, widths, choosing.objective),
    }
    found = {}
    for name, search in searches.items():
        choosing.evaluations, started = 0, time.perf_counter()
        found[name] = search()
        cost = f"{time.perf_counter() - started:.2f} s, {choosing.evaluations} evaluations"
        print_line(name, choosing, found[name], test, cost)
    exact, other = (choosing.by_sum(items, found[n]) for n in ("exact", "greedy on the sum"))
    if exact > other + 1e-12:
        raise RuntimeError("The exact choice is worse than the greedy one by its own objective.")


if __name__ == "__main__":
    main()
