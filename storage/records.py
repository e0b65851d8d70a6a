"""How each precision was made: the records of its models in, their means out."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from attacks.metrics.intervals import Estimate


class LayerMeans(NamedTuple):
    """What became of one layer, mean over models.

    Attributes:
        name: of the layer in its network.
        flipped: share of its weights that are not at the code nearest to the trained weight.
        before: squared error of its unit's output with nearest codes, over the squared
            full-precision output; None where no images were looked at.
        after: the same with the codes that were chosen.
    """

    name: str
    flipped: float
    before: float | None
    after: float | None


class Making(NamedTuple):
    """How one precision was made; layers and seconds are means over the models.

    Attributes:
        objective: what was minimised.
        calibration: which images were looked at; None for none.
        units: what was reconstructed as a whole, in order: blocks and single layers.
        layers: in the network's order.
        seconds: of wall time a model.
        models: how many the means are over.
    """

    objective: str
    calibration: str | None
    units: list[str]
    layers: list[LayerMeans]
    seconds: float
    models: int

    @property
    def moves(self) -> bool:
        """Whether a layer has anything to show: rounding to nearest leaves all at nought."""
        return any(layer.flipped or layer.after is not None for layer in self.layers)


class Precision(NamedTuple):
    """What is known of one variant beside its leakage.

    Attributes:
        accuracy: on test images, of the audited models.
        bytes: of a weights file.
        made: None for full precision, and where no record was kept.
        by_target: accuracy of each audited model.
    """

    accuracy: Estimate
    bytes: int
    made: Making | None = None
    by_target: Sequence[float] = ()


def average(records: Sequence[Mapping[str, Any]]) -> Making | None:
    """Sum up what one precision's models left on record; None without records.

    Args:
        records: one a model, of one network and one variant: `objective`, `calibration` (`source`
            and `images`, or None), `units`, `seconds` and `layers`, each with `name`, `flipped`,
            `error_before` and `error_after` (numbers, or None).
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
    return Making(objective, calibration, units, means, seconds, len(records))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def count_units(made: Making) -> str:
    """What the units are, in short: 9 blocks, 2 layers."""
    names = {layer.name for layer in made.layers}
    layers = sum(unit in names for unit in made.units)
    kinds = {"block": len(made.units) - layers, "layer": layers}
    parts = [f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in kinds.items() if n]
    return ", ".join(parts) or "none"
