"""What differential privacy proves of each variant: the bound of its training, or nothing.

A variant that is computed from a private network alone is as private as that network
(post-processing). A quantizer that looks at images of the pool looks at what was to be kept
private, members and non-members alike, and no proof covers that second look. Held-out images are in
no training set, so they are no private data.
"""

from collections.abc import Sequence

from attacks.game import FULL, Proven
from storage.names import ModelName, is_snapshot
from storage.records import read_record
from storage.run_folder import RunFolder


def is_trained(variant: str) -> bool:
    """Whether a variant is a state of training, rather than made of one."""
    return variant == FULL or is_snapshot(variant)


def prove(
    run: RunFolder, variants: Sequence[str], audited: Sequence[ModelName]
) -> dict[str, Proven]:
    """What is proven of each variant of privately trained models.

    Args:
        run: the folder of the fleet.
        variants: names of the variants.
        audited: the models; the bound of a variant is the largest of theirs.

    Raises:
        ValueError: a record is damaged.
    """
    states = {v: _of_training(run, v, audited) for v in variants if is_trained(v)}
    return {
        v: states[v] if v in states else _of_quantized(run, v, audited, states[FULL])
        for v in variants
    }


def _of_training(run: RunFolder, variant: str, audited: Sequence[ModelName]) -> Proven:
    """The bound of `full` or of a snapshot, by the records of its training."""
    records = {name: read_record(run, name, variant) for name in audited}
    missing = [f"{name}/{variant}.json" for name, record in records.items() if not record]
    known = [record for record in records.values() if record]
    delta = max((record["delta"] for record in known), default=0.0)
    if missing:
        return Proven(None, delta, f"{missing[0]} is missing")
    return Proven(max(record["epsilon"] for record in known), delta)


def _of_quantized(
    run: RunFolder, variant: str, audited: Sequence[ModelName], full: Proven
) -> Proven:
    """That of `full`, unless the quantizer looked at images of the pool.

    Which images it looked at is in its record, so that an audit imports no quantizer of a user's.
    """
    records = {name: read_record(run, name, variant) for name in audited}
    if missing := [f"{name}/{variant}.json" for name, record in records.items() if not record]:
        return Proven(None, full.delta, f"{missing[0]} is missing")
    used = [record["calibration"] for record in records.values() if record]
    seen = {images["source"] for images in used if images} - {"heldout"}
    if not seen:
        return full
    words = {"members": "members", "nonmembers": "non-members"}[seen.pop()]
    return Proven(None, full.delta, f"calibrated on {words}, take `-heldout`")
