"""The callback that records what an attacker sees of every variant of a model."""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from attacks.signals import signals
from datamodules.images import Batch, ImageDataModule
from lightning_modules.callbacks.peers import Peers, share
from lightning_modules.float32 import tf32
from storage.files import save_whole
from storage.wandb_project import accuracy_key
from storage.weights import load_into

Tensors = dict[str, Tensor]
Further = Callable[[LightningModule, str, nn.Module], Tensors]


class RecordSignals(Callback):
    """Write `signals/<variant>.safetensors` for every variant of a model, after a fit.

    The weights are read back from their files, so the audited network is the deployed one. It
    computes in true float32, as do the networks that `fleet/export.py` deploys. Each process of a
    fit records its share of the variants, over the whole pool in order, because a distributed
    sampler would repeat examples. Each batch goes through the networks of all variants that lack
    signals, in one pass over the data.

    Args:
        folder: the model's folder, with a weights file for each variant.
        variants: names of the variants, `full` among them.
        queries: views of an example that the attacker asks for, the same for every model unless
            they are random.
        peers: the processes of the fit.
        whole: variants whose outputs for all classes are recorded, too, of the pool as it is.
        further: what else is recorded of a variant, from the module, the variant's name and its
            network; None for nothing.
    """

    def __init__(
        self,
        folder: Path,
        variants: Sequence[str],
        queries: Sequence[str],
        peers: Peers,
        whole: Collection[str] = (),
        further: Further | None = None,
    ) -> None:
        self.whole, self.further = whole, further
        self.folder, self.variants, self.queries, self.peers = folder, variants, queries, peers

    @tf32(False)
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        own = share(trainer, self.variants)
        paths = {name: self.folder / "signals" / f"{name}.safetensors" for name in own}
        missing = {name: path for name, path in paths.items() if not path.exists()}
        accuracies = {}
        if missing:
            # Lightning has already moved the module back to the CPU.
            trained, device = pl_module.get_submodule("network"), trainer.strategy.root_device
            weights = [self.folder / f"{variant}.safetensors" for variant in missing]
            networks = [load_network(trained, path).to(device) for path in weights]
            records = self._record(networks, trainer.datamodule)  # type: ignore[attr-defined]
            named = zip(missing.items(), networks, records, strict=True)
            for (variant, path), network, record in named:
                more = {}
                if variant in self.whole:
                    data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
                    more["outputs"] = _outputs(network, data.pool_batches("identity"))
                if self.further is not None:
                    more |= self.further(pl_module, variant, network)
                save_whole(path, record | more)
                accuracies[accuracy_key(variant)] = record["test_correct"].double().mean().item()
        for measured in self.peers.gather(accuracies):  # only the first process logs
            for logger in trainer.loggers if measured else ():
                logger.log_metrics(measured)

    def _record(self, networks: Sequence[nn.Module], data: ImageDataModule) -> Iterator[Tensors]:
        count = len(self.queries)
        # accuracy is measured on the identity, which need not be among the queries
        views = [*self.queries, *({"identity"} - set(self.queries))]
        pool = _measure(networks, data.pool_batches, self.queries)
        test = _measure(networks, data.test_batches, views)  # no model trained on these
        for record, population in zip(pool, test, strict=True):
            yield record | {
                "population": population["phi"][:count],
                "population_hinge": population["hinge"][:count],
                "test_correct": population["correct"][views.index("identity")],
            }


def load_network(trained: nn.Module, weights: Path) -> nn.Module:
    """Copy a network with the weights and activations of a file, in float32 and for evaluation."""
    return load_into(copy.deepcopy(trained).float().eval(), weights)


def _measure(
    networks: Sequence[nn.Module],
    batches: Callable[[str], Iterable[Batch]],
    queries: Sequence[str],
) -> list[Tensors]:
    """Signals `[queries, examples]` of each network."""
    rows = [_measure_view(networks, batches(query)) for query in queries]
    return [_join(torch.stack, row) for row in zip(*rows, strict=True)]


@torch.inference_mode()
def _measure_view(networks: Sequence[nn.Module], batches: Iterable[Batch]) -> list[Tensors]:
    """Signals `[examples]` of each network; logits of only one batch are kept."""
    parts = [
        [signals(network(batch.images).cpu(), batch.labels.cpu())._asdict() for network in networks]
        for batch in batches
    ]
    return [_join(torch.cat, part) for part in zip(*parts, strict=True)]


@torch.inference_mode()
def _outputs(network: nn.Module, batches: Iterable[Batch]) -> Tensor:
    return torch.cat([network(batch.images).float().cpu() for batch in batches])


def _join(how: Callable[[list[Tensor]], Tensor], records: Sequence[Tensors]) -> Tensors:
    return {key: how([record[key] for record in records]) for key in records[0]}
