"""Facts about a variant: its accuracy, its size, and its quantizer's records."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.game import Proven
from attacks.metrics.intervals import Estimate
from quantization.rounding.grid import Bits
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.searches import CostMeans, SearchMeans


class LayerMeans(NamedTuple):
    """How one layer was quantized, averaged over models.

    Attributes:
        name: the layer's name in its network.
        flipped: share of its weights whose code is not the nearest to the trained weight.
        before: squared error of its unit's output with nearest codes, over the squared
            full-precision output; None if the quantizer looked at no images.
        after: the same with the chosen codes.
    """

    name: str
    flipped: float
    before: float | None
    after: float | None


class QuantizationMeans(NamedTuple):
    """How one variant was quantized; layers and seconds are means over models.

    Attributes:
        objective: what the quantizer minimised.
        calibration: which images it looked at; None for none.
        units: blocks and single layers that were reconstructed as a whole, in order.
        layers: means of each layer, in the network's order.
        seconds: wall time per model.
        models: number of models that were averaged.
    """

    objective: str
    calibration: str | None
    units: list[str]
    layers: list[LayerMeans]
    seconds: float
    models: int

    @property
    def moves(self) -> bool:
        """Whether any layer has something to show; rounding to nearest leaves all at 0."""
        return any(layer.flipped or layer.after is not None for layer in self.layers)


class VariantFacts(NamedTuple):
    """Facts about one variant apart from its leakage.

    Attributes:
        accuracy: accuracy on test images, averaged over the audited models.
        bytes: size of a weights file; 0 if unknown.
        quantization: how it was quantized; None for `full`, or if no record was kept.
        accuracy_by_target: accuracy of each audited model.
        proven: what differential privacy proves of it; None without.
        cost: its bytes, FLOPs and arithmetic intensity; None if no record has them.
        search: how its bits were chosen; None if its name says them.
    """

    accuracy: Estimate
    bytes: int
    quantization: QuantizationMeans | None = None
    accuracy_by_target: Sequence[float] = ()
    proven: Proven | None = None
    cost: CostMeans | None = None
    search: SearchMeans | None = None


def read_record(run: RunFolder, name: ModelName, variant: str) -> dict[str, Any] | None:
    """Read the record of one model's variant, of its quantization or of its private training.

    None for a diverged model, and for a state of training without differential privacy.

    Raises:
        ValueError: the file is damaged.
    """
    path = run.record(name, variant)
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a whole record ({error}). Delete it; the audit does without it."
        ) from error
    return record


def read_bits(path: Path) -> dict[str, Bits]:
    """Bits of each layer by its name, from the record of any model's variant.

    Raises:
        ValueError: there is no such file, or it is no record of a variant's layers.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        bits: dict[str, Bits]
        if "search" in record:
            bits = record["search"]["bits"]
        else:
            bits = {layer["name"]: layer["bits"] for layer in record["layers"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = getattr(error, "strerror", None) or repr(error)
        raise ValueError(
            "`--layer_bits` must be a dictionary, or the record of a quantized variant such as"
            f" runs/a/models/target-000/adaround-mix3.json, got {path} ({reason})."
        ) from error
    if not bits:
        raise ValueError(
            f"`--layer_bits`: {path} has no layers with bits of their own, as a control has none."
            " Name the record of the quantized variant."
        )
    return bits


def read_seconds(run: RunFolder, name: ModelName) -> float | None:
    """Wall time of one model's training, variants and signals; None without a whole record."""
    try:
        return float(json.loads(run.progress(name).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it only informs: no result depends on it


def read_calibrated(
    run: RunFolder, variant: str, members: Mapping[ModelName, Tensor], finished: Sequence[ModelName]
) -> Bool[Tensor, "models examples"] | None:
    """Which model's quantizer looked at which of its training examples; None if it looked at none.

    Args:
        run: the folder of the fleet.
        variant: the variant whose records are read.
        members: which model trained on which example, in the order of the result's rows.
        finished: models whose records are read; the rows of all others stay False.
    """
    masks = {name: torch.zeros_like(row) for name, row in members.items()}
    for name in finished:
        used = (read_record(run, name, variant) or {}).get("calibration")
        if not used or used["source"] != "members":
            return None
        masks[name][used["indices"]] = True
    return torch.stack(list(masks.values()))


def average(records: Sequence[Mapping[str, Any]]) -> QuantizationMeans | None:
    """Average the records of one variant over models; None without records.

    Args:
        records: one per model, of one network and one variant: `objective`, `calibration`
            (`source` and `images`, or None), `units`, `seconds` and `layers`, each with `name`,
            `flipped`, `error_before` and `error_after` (numbers, or None).
    """
    if not records:
        return None
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for layer in record["layers"]:
            layers.setdefault(layer["name"], []).append(layer)
    means = [
        LayerMeans(
            name,
            fmean(layer["flipped"] for layer in same),
            _mean([layer["error_before"] for layer in same]),
            _mean([layer["error_after"] for layer in same]),
        )
        for name, same in layers.items()
    ]
    objective, used, units = (records[0][key] for key in ("objective", "calibration", "units"))
    calibration = used and f"{used['source']}, {used['images']:,} images"
    seconds = fmean(record["seconds"] for record in records)
    return QuantizationMeans(objective, calibration, units, means, seconds, len(records))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def count_units(quantization: QuantizationMeans) -> str:
    """Count the units in short: 9 blocks, 2 layers."""
    names = {layer.name for layer in quantization.layers}
    layers = sum(unit in names for unit in quantization.units)
    kinds = {"block": len(quantization.units) - layers, "layer": layers}
    parts = [f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in kinds.items() if n]
    return ", ".join(parts) or "none"
