"""Whether two experiments are the same, what one adds to the other, and where they differ."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantization.mixed_options import MixedOptions
from storage.experiment import Experiment
from storage.own_code import fingerprint

# Options that may be raised, because new models leave the present ones as they are.
GROWING = ("fleet.shadows", "fleet.targets")
# Options that only add files of their own: what one call asked for stays asked for.
ADDING = ("quantize", "quantize_snapshots", "record_embeddings", "snapshots")
# Options that older folders do not record, and what was done then.
ADDED = {
    "model.tf32": False,
    "model.label_smoothing": 0.0,
    **{f"model.dp.{option}": None for option in ("noise", "epsilon", "delta")},
    "model.dp.clip": 1.0,
    "prune.method": None,
    "prune.remove": 0.5,
    "prune.start": 0.1,
    "prune.cut": None,
    "prune.strength": 0.03,
    "federated.clients": None,
    "federated.local_epochs": 1,
    "federated.participation": 1.0,
    "federated.dirichlet": None,
    "federated.update": "full",
    "federated.error_feedback": False,
    "federated.record": [],
    "federated.attribute": None,
    "federated.cosine": "last",
    "federated.adversary": None,
    "federated.strength": 1.0,
    "data.init_args.background": "white",
    **{f"mixed.{option}": value for option, value in asdict(MixedOptions()).items()},
    "mixed.candidates": [*MixedOptions().candidates],
}


def grow(stored: Experiment, asked: Experiment) -> Experiment:
    """Add to the stored experiment the models, variants and embeddings of `asked`, its places."""
    variants = list(dict.fromkeys([*stored.quantized, *asked.quantized]))
    snapshots = sorted({e for x in (stored, asked) for e in x.config.get("snapshots", [])})
    switches = ("record_embeddings", "quantize_snapshots")
    on = {key for key in switches for e in (stored, asked) if e.config.get(key, False)}
    config = asked.config | {"quantize": variants}
    if snapshots:  # a folder from before the option stays as it is
        config |= {"snapshots": snapshots}
    config |= dict.fromkeys(sorted(on), True)  # likewise
    fingerprints = stored.fingerprints | asked.fingerprints  # of quantizers that were added
    return stored._replace(config=config, fingerprints=fingerprints, places=asked.places)


def check_same(path: Path, stored: Experiment, asked: Experiment) -> None:
    """Raise if `asked` is neither the stored experiment nor one that it can grow into.

    Raises:
        ValueError: the message names each field that differs, both values and the ways out.
    """
    # variants that were asked for before are made for new models too; an own quantizer may be new
    own = fingerprint([*stored.quantized, *asked.quantized])
    new = {f"{name}'s fingerprint" for name in own.keys() - stored.fingerprints.keys()}
    asked = asked._replace(fingerprints=asked.fingerprints | own)
    before, after = _compared(stored), _compared(asked)
    differences = [
        f"  {field}: {before.get(field)!r} in the folder, {after.get(field)!r} asked"
        for field in dict.fromkeys([*before, *after])
        if field not in new
        and before.get(field) != after.get(field)
        and not (field in GROWING and after[field] > before[field])
    ]
    if differences:
        raise ValueError(
            f"{path} holds another experiment:\n" + "\n".join(differences) + "\n"
            "Ask for what is in the folder, or train into a new one with `--run_dir`. Shadows and "
            "targets can be raised, not lowered. Nothing was changed."
        )


def differing(experiments: Mapping[str, Experiment | None]) -> dict[str, list[str]]:
    """Options that differ between experiments: option -> values, in the order of the experiments.

    Neither `ADDING` nor the folder's id counts. "-" marks an option that an experiment does not
    record, "unknown" every option of models that were trained elsewhere.
    """
    asked = [
        experiment and _compared(experiment) | _flatten({"versions": experiment.versions})
        for experiment in experiments.values()
    ]
    known = [options for options in asked if options is not None]
    values = {}
    for key in dict.fromkeys(key for options in known for key in options):
        distinct = {repr(options.get(key)) for options in known}
        if len(distinct) > 1 or len(known) < len(asked):
            values[key] = [
                "unknown" if options is None else _show(options, key) for options in asked
            ]
    return values


def _compared(experiment: Experiment) -> dict[str, Any]:
    """The values that two equal experiments share."""
    config = {key: value for key, value in experiment.config.items() if key not in ADDING}
    facts = {f"{key}'s fingerprint": value for key, value in experiment.fingerprints.items()}
    options = _flatten(config)
    if batch_size := options.get("data.init_args.batch_size"):
        options.setdefault("trainer.images_per_batchnorm", batch_size)
    return ADDED | options | facts


def _flatten(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _show(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key, "-")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
