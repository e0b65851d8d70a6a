"""Shadows of another experiment, which attack the targets of this one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.game import FULL, OTHER, ModelSignals
from attacks.health import find_failures
from attacks.rounds import Rounds
from datamodules.views import is_random
from storage.checksums import check_unchanged
from storage.experiment import Experiment
from storage.names import ModelName
from storage.rounds import read_rounds
from storage.run_folder import RunFolder
from storage.same_experiment import differing
from storage.saved_signals import SavedSignal

FACT = "shadows of another experiment"  # in an audit's basis: what they are
AT_FULL = "; at full precision against "  # before the variants that they do not have
FIELDS = ("phi", "hinge", "population", "population_hinge")  # in a signals file
_OWN = ("fleet.shadows", "fleet.targets")  # options that no shadow's signals depend on


class Borrowed(NamedTuple):
    """What an audit takes from another experiment.

    Attributes:
        signals: of its shadows, by `OTHER` and the variant they attack: in the same variant where
            they have it, else at full precision.
        failed: its shadows that failed, and why; here neither they nor their partners attack, nor
            are they audited.
        left_out: a sentence on each of them.
        fact: its name, and what differs from the experiment that is audited.
        rounds: what was recorded of them, in the rounds that are recorded here; None where neither
            or one of the experiments was trained by clients.
    """

    signals: Mapping[str, ModelSignals] = {}
    failed: Mapping[ModelName, str] = {}
    left_out: Sequence[str] = ()
    fact: str = ""
    rounds: Rounds | None = None


def borrow(
    lender: RunFolder, run: RunFolder, members: Mapping[ModelName, Bool[Tensor, " examples"]]
) -> Borrowed:
    """Read another experiment's shadows, which trained on the same examples as those of `run`.

    Args:
        lender: the other experiment's folder.
        run: the experiment that is audited.
        members: which example each of its models trained on.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: pool, labels, membership or queries differ, shadows are missing or unfinished,
            or a file is damaged.
    """
    own, other = run.read(), lender.read()
    shadows = own.names[: own.shadows]
    if why := _why_not(lender, run, own, other, members):
        raise ValueError(f"The shadows of {lender.path} cannot attack {run.name}: {why}")
    used = {v: v if v in other.variants else FULL for v in own.compared}
    needed = list(dict.fromkeys([FULL, *used.values()]))
    unlike = _unlike(run.name, lender.name, own, other)
    shared = [] if unlike else own.rounds
    recorded = other.recorded if shared else {}
    if unfinished := [n for n in shadows if lender.missing(n, needed, recorded=recorded)]:
        raise ValueError(
            f"{len(unfinished)} of the {len(shadows)} shadows needed of {lender.path} are "
            f"unfinished: {', '.join(map(str, unfinished))}. Run train.py again to finish them."
        )
    for name in shadows:
        check_unchanged(lender.model(name), [lender.signals(name, v) for v in needed])

    def signal(variant: str, key: str) -> SavedSignal:
        return SavedSignal([lender.signals(name, variant) for name in shadows], key)

    phi = {variant: signal(variant, "phi") for variant in needed}
    rows = torch.stack([members[name] for name in shadows])
    failures = find_failures(phi, signal(FULL, "correct"), rows)
    failed = {shadows[index]: reason for index, reason in failures.items()}
    signals = {}
    for variant, theirs in used.items():
        stored: dict[str, Any] = {key: signal(theirs, key) for key in FIELDS}
        signals[f"{OTHER}{variant}"] = ModelSignals(**stored)
    left_out = [
        f"{name} is excluded with its partner: {reason} in {lender.name}. Train it again there "
        "by `train.py --fleet.retrain_failed true`."
        for name, reason in failed.items()
    ]
    rounds = None
    if shared:
        rows_here = {name: members[name] for name in shadows}
        rounds = read_rounds(lender, rows_here, [name for name in shadows if name not in failed])
    elif own.rounds:
        left_out.append(f"The rounds of {lender.name} attack nobody: {unlike}")
    fact = _describe(lender.name, run.name, own, other, used)
    return Borrowed(signals, failed, left_out, fact, rounds)


def _unlike(name: str, lender: str, own: Experiment, other: Experiment) -> str:
    """Why what was recorded of two experiments' rounds is not alike, and the way out; or empty."""
    if own.rounds != other.rounds:
        return (
            f"it recorded {_list(other.rounds)} and {name} {_list(own.rounds)}. Pass the same "
            "`--federated.record` to both."
        )
    for option, default in (("cosine", "last"), ("adversary", None)):
        ours, theirs = (e.config.get("federated", {}).get(option, default) for e in (own, other))
        if ours != theirs:
            return (
                f"its `federated.{option}` is {theirs or 'null'} and that of {name} is "
                f"{ours or 'null'}. Pass the same to both."
            )
    return ""


def _list(rounds: Sequence[int]) -> str:
    return f"rounds {', '.join(map(str, rounds))}" if rounds else "no round"


def _why_not(
    lender: RunFolder,
    run: RunFolder,
    own: Experiment,
    other: Experiment,
    members: Mapping[ModelName, Tensor],
) -> str:
    """Why an experiment's shadows cannot attack these targets, and the way out; empty if they can.

    The fingerprint of the data covers pool, labels and test images.
    """
    if lender.path.resolve() == run.path.resolve():
        return "it is the same folder, whose shadows attack anyway. Leave out `--shadows`."
    if own.fingerprints["data"] != other.fingerprints["data"]:
        return (
            "their pool, labels or test images are others. Train them with the same `--data` and "
            "options of data."
        )
    if other.shadows < own.shadows:
        return (
            f"{own.shadows} shadows attack here, and there are {other.shadows}. Train it again "
            f"with `--fleet.shadows {own.shadows}`, which adds the missing ones."
        )
    theirs = lender.membership()
    if any(not torch.equal(theirs[name], members[name]) for name in own.names[: own.shadows]):
        return (
            f"they trained on other examples (seed {other.config['seed']} there, "
            f"{own.config['seed']} here). Train them with `--seed {own.config['seed']}`."
        )
    if own.queries != other.queries:
        return (
            f"they were asked by {', '.join(other.queries)}, and the targets by "
            f"{', '.join(own.queries)}. Train them with `--queries {' '.join(own.queries)}`."
        )
    if any(map(is_random, own.queries)) and _augmented(own) != _augmented(other):
        return (
            f"{', '.join(filter(is_random, own.queries))} show what training shows, which is "
            f"{_augmented(other)} there and {_augmented(own)} here. Train both with queries that "
            "are the same for every model, such as `--queries identity`."
        )
    return ""


def _augmented(experiment: Experiment) -> str:
    """How training augments, which random queries are drawn by, image by image."""
    options = experiment.config["data"]["init_args"]
    return f"flip {str(options.get('flip')).lower()}, crop {options.get('crop')}"


def _describe(
    lender: str, run: str, own: Experiment, other: Experiment, used: Mapping[str, str]
) -> str:
    """What the shadows are, and in which options their experiment differs."""
    options = differing({run: own, lender: other})
    told = [
        f"{option} {there} (here {here})"
        for option, (here, there) in options.items()
        if option not in _OWN
    ]
    lacking = [variant for variant, theirs in used.items() if theirs != variant]
    bits = f"{AT_FULL}{', '.join(lacking)}" if lacking else ""
    return f"{lender}, which differs in {'; '.join(told) or 'nothing that is recorded'}{bits}"
