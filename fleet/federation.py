"""Checks of federated learning before any training, and the clients of each model."""

import copy
from collections.abc import Mapping
from math import ceil
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from jsonargparse import Namespace
from safetensors.torch import load_file
from torch import Tensor

from datamodules.clients import Federation, count_participants, draw_holders
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from fleet.checks import Devices
from lightning_modules.classifier import Classifier
from lightning_modules.example_gradients import direction_of, full_cosines
from lightning_modules.federated import FederatedClassifier
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.last_layer import find_last_linear
from lightning_modules.options import ModelOptions, PruneOptions
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder


def check_federation(
    config: Namespace, model: ModelOptions, prune: PruneOptions, devices: Devices
) -> None:
    """Refuse options that federated learning cannot be combined with.

    Raises:
        ValueError: the message names the option and the way out.
    """
    trainer = config.trainer
    for option, given in (("--prune", prune.method is not None), ("--model.dp", model.dp.on)):
        if given:
            raise ValueError(
                f"`--federated.clients` is not supported with `{option}`: nothing defines what "
                "clients would do of it, and what the server. Leave out one of them."
            )
    if devices.processes > 1:
        raise ValueError(
            "`--federated.clients` is not supported with several devices per model "
            f"(`--trainer.devices`), got {devices.processes}: clients train one after another. "
            "`--fleet.workers` trains several models at once."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            "`trainer.accumulate_grad_batches` must be 1 with `--federated.clients`, got "
            f"{trainer.accumulate_grad_batches}: a client steps after each batch. Raise "
            "`--data.batch_size` instead."
        )
    if trainer.gradient_clip_val is not None:
        raise ValueError(
            "`trainer.gradient_clip_val` is not supported with `--federated.clients`, got "
            f"{trainer.gradient_clip_val:g}. Leave it out, and lower `--model.lr`."
        )


def make_federation(
    options: FederatedOptions,
    members: Bool[Tensor, " examples"],
    labels: Int64[Tensor, " examples"],
    seed: int,
) -> Federation | None:
    """The clients of a model, drawn from its seed; None if it is trained in one place.

    Raises:
        ValueError: a client would have too few examples.
    """
    if options.clients is None:
        return None
    holder = draw_holders(members, labels, options.clients, options.dirichlet, seed)
    return Federation(holder, options.clients, options.local_epochs, options.participation)


def check_clients(
    config: Namespace,
    options: FederatedOptions,
    data: ImageDataModule,
    members: Mapping[ModelName, Tensor],
) -> list[int]:
    """Numbers of examples that the clients of all models hold, each number once, in order.

    Raises:
        ValueError: a client holds too few examples, or too few for a batch.
    """
    run, sizes = RunFolder(config.run_dir), set[int]()
    for name, row in members.items():
        seed = derive_seed(config.seed, name.role, name.number, run.attempt(name))
        federation = make_federation(options, row, data.pool.labels, seed)
        for client, size in enumerate(federation.sizes() if federation else []):
            sizes.add(size)
            if size // ceil(size / data.batch_size) < 2:
                raise ValueError(
                    f"`data.batch_size` {data.batch_size} leaves client {client} of {name} a batch "
                    f"of one of its {size} examples, and BatchNorm needs two. Raise it, or take "
                    "other `--federated.clients`."
                )
    return sorted(sizes)


def rehearse_rounds(
    options: FederatedOptions, classifier: Classifier, data: ImageDataModule, rounds: int
) -> list[str]:
    """Look for the layer whose gradients are recorded, and say what rounds will be like.

    Raises:
        ValueError: the network has no such layer, or no gradients of single examples where they are
            asked for.
    """
    if not isinstance(classifier, FederatedClassifier) or options.clients is None:
        return []
    network = copy.deepcopy(classifier.network).cpu().float().eval()
    batch = next(data.test_batches())
    images, labels = batch.images[:2].cpu(), batch.labels[:2].cpu()
    find_last_linear(network, images)
    notes = []
    if options.cosine == "all":
        full_cosines(network, images, labels, direction_of(network, network)[None])
        notes = [
            "Cosines on all layers (`--federated.cosine all`): a recorded round takes a backward "
            "pass per example of the pool"
            + (" and client." if options.adversary == "isolate" else ".")
        ]
    count = count_participants(options.clients, options.participation)
    recorded = options.rounds(rounds)
    return [
        f"Federation: {rounds} rounds, in each {count} of {options.clients} clients; each "
        f"uploads {classifier.upload_bytes:,} bytes (`{options.update}`). Recorded rounds: "
        f"{', '.join(map(str, recorded))}.",
        *notes,
    ]


def keep_holders(path: Path, federation: Federation) -> None:
    """Write which client holds which example of a model, or compare it with what was written.

    Raises:
        RuntimeError: clients held other examples when this model's training began.
    """
    if not path.exists():
        save_whole(path, {"holder": federation.holder})
    elif not torch.equal(load_file(path)["holder"], federation.holder):
        raise RuntimeError(
            f"{path} differs from what this seed draws for the clients. The file was changed, or "
            "this version of NumPy draws other numbers: use the version that began the folder, or "
            "train into a new one with `--run_dir`."
        )
