"""What follows training, tried before it: variants, and the images that they look at."""

import copy
from collections.abc import Iterable

import torch
from jaxtyping import Bool
from jsonargparse import Namespace
from torch import Tensor, nn

from datamodules.images import ImageDataModule
from datamodules.tasks import TaskStream
from lightning_modules.callbacks.record_embeddings import find_layer
from lightning_modules.classifier import Classifier
from lightning_modules.options import CalibrationOptions
from lightning_modules.rehearsal import first_of
from quantization.mixed_options import MixedOptions
from quantization.quantized_network import layer_bits
from quantization.rehearsal import check_variants
from quantization.variant import Variant, check_count, wanted


def try_network(
    config: Namespace, classifier: Classifier, data: ImageDataModule
) -> tuple[nn.Module, list[str]]:
    """Try what follows training, so that its errors come before the run folder is created.

    Returns:
        The network, and notes for the user.

    Raises:
        ValueError: the network cannot be quantized or embedded as asked.
    """
    images = next(data.test_batches()).images[:2]
    network, notes = classifier.get_submodule("network"), []
    if config.record_embeddings:
        find_layer(copy.deepcopy(network).eval(), images)
    mixed = MixedOptions(**config.mixed.as_dict())
    variants = [Variant.parse(name) for name in config.quantize]
    check_variants(network, variants, images, config.layer_bits, mixed)
    of_layers = [variant for variant in variants if not variant.engine]
    for variant in of_layers[:1]:
        packed = layer_bits(network, variant, config.layer_bits)
        tensors = network.state_dict().items()
        unpacked = [key for key, tensor in tensors if tensor.ndim > 1 and key not in packed]
        if unpacked:
            notes = [f"Note: quantization leaves {first_of(unpacked)} at full precision."]
    return network, notes


def check_calibration(options: CalibrationOptions, data: ImageDataModule, variant: Variant) -> None:
    """Raise if models will lack the images that a variant looks at, before any training.

    Raises:
        ValueError: there are no images, or fewer than one batch.
    """
    if not variant.calibrates:
        return
    half = (
        torch.arange(len(data.pool.labels)) < len(data.pool.labels) // 2
    )  # the size of any model's half
    count, _ = wanted(variant, options.images, options.rounds)
    try:
        indices = data.draw_calibration(variant.calibration, half, count, 0)
    except ValueError as error:
        raise ValueError(f"`{variant}`: {error}") from error
    check_count(variant, len(indices))


def check_stages(
    options: CalibrationOptions,
    stream: TaskStream,
    members: Iterable[Bool[Tensor, " examples"]],
    names: Iterable[str],
) -> None:
    """Raise if a stage leaves too few images for a variant that is made of its end.

    Args:
        options: number of images that variants look at.
        stream: what models are served.
        members: what each model trains on.
        names: of the variants.

    Raises:
        ValueError: the message names the variant, and the way out.
    """
    for variant in filter(lambda variant: variant.calibrates, map(Variant.parse, names)):
        count, _ = wanted(variant, options.images, options.rounds)
        rows = [
            stream.at_hand(row, stage, variant.calibration)
            for row in members
            for stage in range(len(stream.ends) - 1)
        ]
        inside = variant.calibration == "members"
        fewest = min(int((row if inside else ~row).sum()) for row in rows)
        try:
            check_count(variant, min(count, fewest))
        except ValueError as error:
            raise ValueError(f"{error} A stage of `--quantize_snapshots` has no more.") from error
