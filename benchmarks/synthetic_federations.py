"""Federations of a plain loop in the files of a run folder: what fits take minutes for, in seconds.

An experiment of its own, for tests and for a first look at attacks: FedAvg of a perceptron on the
digits, independent of `lightning_modules`.

    python -m benchmarks.synthetic_federations /tmp/fp32
    python -m benchmarks.synthetic_federations /tmp/qsgd --levels 7
    python audit.py --run_dir /tmp/qsgd --shadows /tmp/fp32
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from attacks.rounds import NOBODY
from attacks.signals import signals
from storage.experiment import Experiment
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder

HIDDEN, BATCH, RATE = 128, 10, 0.1
Weights = dict[str, Tensor]


class Options(NamedTuple):
    """What is trained.

    Attributes:
        pool: audited examples; the other digits are the test split.
        shadows: number of shadow federations, an even number.
        targets: number of targets.
        clients: of each federation.
        rounds: that are trained.
        record: rounds that are recorded.
        local_epochs: passes over a client's examples in a round.
        participation: share of clients that take part in a round.
        levels: positive levels that QSGD rounds updates to; None sends them as they are.
        shuffle: whether signals are recorded for other examples than those trained on: a null.
        seed: of membership, weights and order.
    """

    pool: int = 1500
    shadows: int = 8
    targets: int = 0
    clients: int = 10
    rounds: int = 10
    record: tuple[int, ...] = (2, 4, 6, 8, 10)
    local_epochs: int = 5
    participation: float = 1.0
    levels: int | None = None
    shuffle: bool = False
    seed: int = 0


def write_federations(path: Path, options: Options) -> RunFolder:
    """Train every federation and write what train.py would have."""
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(99))
    images, labels = images[order].float() / 16, labels[order]
    members = draw_members(options)
    config = {
        "seed": options.seed,
        "data": {"class_path": "nowhere.Digits", "init_args": {}},
        "model": {"network": "mlp"},
        "trainer": {"max_epochs": options.rounds},
        "fleet": {"shadows": options.shadows, "targets": options.targets},
        "queries": ["identity"],
        "quantize": [],
        "federated": {
            "clients": options.clients,
            "record": list(options.record),
            "update": "full" if options.levels is None else f"qsgd-s{options.levels}",
        },
    }
    fingerprints = {"data": f"digits-{options.pool}", "network": "mlp"}
    versions: dict[str, str | int] = {"torch": str(torch.__version__), "threads": 1}
    experiment = Experiment(config, {}, fingerprints, versions, {}, "01234567")
    run = RunFolder(path)
    run.open(experiment, members)
    for number, (name, inside) in enumerate(zip(experiment.names, members, strict=True)):
        generator = torch.Generator().manual_seed(1000 * options.seed + number)
        holder = torch.full((options.pool,), NOBODY)
        kept = inside.nonzero().flatten()
        turns = torch.randperm(len(kept), generator=generator)
        holder[kept] = turns % options.clients
        trained = holder
        if options.shuffle:
            trained = holder[torch.randperm(options.pool, generator=generator)]
        save_whole(run.clients(name), {"holder": holder.to(torch.int16)})
        weights = _train(run, name, images, labels, trained, options, generator)
        save_whole(run.weights(name, "full"), weights)
        found = signals(_logits(weights, images), labels)
        own, test = slice(options.pool), slice(options.pool, None)
        record = {key: value[None, own] for key, value in found._asdict().items()}
        record |= {"population": found.phi[None, test], "population_hinge": found.hinge[None, test]}
        save_whole(run.signals(name, "full"), record | {"test_correct": found.correct[test]})
    return run


def draw_members(options: Options) -> Bool[Tensor, "models examples"]:
    """Random halves of the pool; shadows 2k and 2k + 1 are complementary."""
    generator = torch.Generator().manual_seed(options.seed)
    rows = options.shadows // 2 + options.targets
    half = torch.rand(rows, options.pool, generator=generator).argsort(1) < options.pool // 2
    pairs = half[: options.shadows // 2]
    return torch.cat([torch.stack([pairs, ~pairs], 1).flatten(0, 1), half[len(pairs) :]])


def _train(
    run: RunFolder,
    name: ModelName,
    images: Float[Tensor, "all 64"],
    labels: Int64[Tensor, " all"],
    holder: Int64[Tensor, " pool"],
    options: Options,
    generator: torch.Generator,
) -> Weights:
    """FedAvg; every recorded round is written."""
    weights = {
        "w1": torch.randn(64, HIDDEN, generator=generator) / 8,
        "b1": torch.zeros(HIDDEN),
        "w2": torch.randn(HIDDEN, 10, generator=generator) / HIDDEN**0.5,
        "b2": torch.zeros(10),
    }
    count = max(1, round(options.participation * options.clients))
    for number in range(1, options.rounds + 1):
        chosen = torch.randperm(options.clients, generator=generator)[:count].sort().values
        uploads, sizes = [], []
        for client in chosen.tolist():
            own = (holder == client).nonzero().flatten()
            local = _fit(weights, images, labels, own, options.local_epochs, generator)
            difference = {key: local[key] - weights[key] for key in weights}
            if options.levels is not None:
                difference = {
                    key: qsgd(value, options.levels, generator) for key, value in difference.items()
                }
            uploads.append({key: weights[key] + difference[key] for key in weights})
            sizes.append(len(own))
        share = torch.tensor(sizes) / sum(sizes)
        after = {
            key: sum(s * upload[key] for s, upload in zip(share, uploads, strict=True))
            for key in weights
        }
        if number in options.record:
            pool = images[: options.pool], labels[: options.pool]
            rows = [_observe(weights, upload, *pool) for upload in [*uploads, after]]
            record = {key: torch.stack([row[key] for row in rows[:-1]]) for key in rows[0]}
            record |= {f"global_{key}": value for key, value in rows[-1].items()}
            save_whole(run.round(name, number), record | {"participants": chosen})
        weights = after
    return weights


def _fit(
    weights: Mapping[str, Tensor],
    images: Float[Tensor, "all 64"],
    labels: Int64[Tensor, " all"],
    own: Int64[Tensor, " own"],
    epochs: int,
    generator: torch.Generator,
) -> Weights:
    """A client's weights after its local epochs of SGD."""
    local = {key: value.clone().requires_grad_() for key, value in weights.items()}
    for _ in range(epochs):
        order = own[torch.randperm(len(own), generator=generator)]
        for batch in torch.split(order, BATCH):
            loss = cross_entropy(_logits(local, images[batch]), labels[batch])
            for value, slope in zip(
                local.values(), torch.autograd.grad(loss, list(local.values())), strict=True
            ):
                value.data -= RATE * slope
    return {key: value.detach() for key, value in local.items()}


def _hidden(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    return (images @ weights["w1"] + weights["b1"]).relu()


def _logits(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    return _hidden(weights, images) @ weights["w2"] + weights["b2"]


def _observe(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], images: Tensor, labels: Tensor
) -> dict[str, Float[Tensor, " examples"]]:
    """Phi, and the norm and the cosine of the last layer's gradient, as the design defines them."""
    found = {}
    for when, weights in (("before", before), ("after", after)):
        hidden, logits = (f(weights, images).double() for f in (_hidden, _logits))
        found[when] = hidden, logits.softmax(1) - one_hot(labels, 10)
    hidden, slope = found["after"]
    norm = slope.norm(dim=1) * (hidden.square().sum(1) + 1).sqrt()
    phi = signals(_logits(after, images), labels).phi
    hidden, slope = found["before"]
    update, bias = ((before[key] - after[key]).double() for key in ("w2", "b2"))
    product = ((hidden @ update) * slope).sum(1) + slope @ bias
    size = (update.square().sum() + bias.square().sum()).sqrt()
    own = slope.norm(dim=1) * (hidden.square().sum(1) + 1).sqrt() * size
    cosine = product / own.where(own > 0, torch.inf)
    return {
        "phi": phi,
        "gradient": norm.clamp_min(1e-12).log().float(),
        "cosine": cosine.float(),
    }


def qsgd(update: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Round an update to multiples of its norm over `levels`, up or down at random, unbiased."""
    norm = update.norm()
    if norm == 0:
        return update
    place = levels * update.abs() / norm
    up = torch.rand(update.shape, generator=generator) < place.frac()
    rounded: Tensor = norm * update.sign() * (place.floor() + up) / levels
    return rounded


def main() -> None:
    """The command line: options of `Options`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("path", type=Path)
    parser.add_argument("--levels", type=int)
    parser.add_argument("--shadows", type=int, default=Options().shadows)
    parser.add_argument("--participation", type=float, default=1.0)
    parser.add_argument("--shuffle", action="store_true")
    arguments = vars(parser.parse_args())
    torch.set_num_threads(1)
    write_federations(arguments.pop("path"), Options(**arguments))


if __name__ == "__main__":
    main()
