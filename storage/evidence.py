"""The evidence of an audit: signals, membership and facts, read from the files of a fleet."""

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.cases import Case, make_cases
from attacks.choice import Choice
from attacks.game import FULL, Game, ModelSignals, Proven, keep_examples
from attacks.health import find_failures, unjudged
from attacks.metrics.intervals import mean_accuracy
from attacks.quantile import make_features
from datamodules.images import ImageDataModule, Images
from datamodules.stored import load_stored
from storage.borrowed import FACT, FIELDS, Borrowed, borrow
from storage.checksums import check_unchanged
from storage.experiment import Experiment
from storage.federation import describe_left_out
from storage.left_out import (
    UNFINISHED,
    leave_out_attacks,
    leave_out_examples,
    leave_out_images,
    leave_out_models,
    why_left_out,
)
from storage.names import ModelName, in_order
from storage.privacy import is_trained, prove
from storage.pruning import PruningMeans, leave_out_pruning, read_pruning, read_widths
from storage.records import VariantFacts, average, read_calibrated, read_record, read_seconds
from storage.rounds import describe_clients, read_rounds
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal, load_signals
from storage.searches import CostMeans, average_cost, average_search
from storage.trade_offs import trade_offs

EMBEDDINGS = {"embeddings": "embeddings", "population_embeddings": "population"}  # in their files


class Evidence(NamedTuple):
    """Everything that an audit reads of a fleet.

    Attributes:
        name: the experiment's name.
        game: who is attacked by whom, and what they see.
        variants: facts about each variant apart from its leakage.
        facts: what the numbers rest on, by label.
        excluded: models that are excluded from the audit, and why.
        left_out: models, images, examples and attacks that were left out, one sentence each.
        experiment: None for models that were trained elsewhere.
        images: the pool; None if its images are no longer in their place.
        examples: facts about every example of the pool, by column of exposure.csv.
        audited: fingerprint of what each audited model trained on, by its name; empty for models
            that were trained elsewhere.
        seconds: wall time of each finished model, by its name, as far as it is known.
        pruned: how the audited models were pruned; None if they were not.
    """

    name: str
    game: Game
    variants: dict[str, VariantFacts]
    facts: dict[str, str]
    excluded: dict[ModelName, str]
    left_out: list[str]
    experiment: Experiment | None = None
    images: Images | None = None
    examples: Mapping[str, Sequence[int | str]] = {}
    audited: Mapping[str, str] = {}
    seconds: Mapping[str, float] = {}
    pruned: PruningMeans | None = None


def gather(run: RunFolder, allow_partial: bool, lender: RunFolder | None = None) -> Evidence:
    """Read the signals of every finished model, and exclude failed models.

    Args:
        run: the experiment to audit.
        allow_partial: whether unfinished models may be excluded.
        lender: another experiment whose shadows attack, too.

    Raises:
        FileNotFoundError: there is no experiment in a folder.
        ValueError: models are unfinished and `allow_partial` is off, a file is damaged, too few
            models are left to audit, or the lender's shadows cannot attack here.
    """
    experiment, members = run.read(), run.membership()
    variants = experiment.variants
    finished, excluded = _read_finished(run, variants, allow_partial)
    failed, unknown = _find_failures(run, variants, members, finished)
    excluded |= failed
    borrowed = Borrowed() if lender is None else borrow(lender, run, members)
    out = [
        position
        for position, name in enumerate(members)
        if name in excluded or name in borrowed.failed
    ]
    cases = make_cases(experiment.shadows, experiment.targets, out)
    check_cases(cases, excluded | dict(borrowed.failed))
    models = [*leave_out_models(excluded, trained_here=True), *borrowed.left_out]
    data, images = _load_data(experiment)
    audited = [experiment.names[case.target] for case in cases]
    # a diverged model has no record of its calibration
    sound = [name for name in finished if name not in excluded]
    calibrated = {v: read_calibrated(run, v, members, sound) for v in variants}
    proven = prove(run, variants, audited) if experiment.private else {}
    facts = {v: _read_facts(run, v, audited, proven.get(v)) for v in variants}
    full = _cost_of_full(run, experiment.quantized, audited)
    facts |= {v: facts[v]._replace(cost=full) for v in (FULL, *in_order(variants))}
    game = Game(
        signals=_read_signals(run, experiment, data),
        members=_matrix(members),
        cases=cases,
        calibrated={variant: mask for variant, mask in calibrated.items() if mask is not None},
        proven=proven,
        others=borrowed.signals,
        other_rounds=borrowed.rounds,
        **trade_offs(facts)._asdict(),
    )
    game = _add_training(game, run, experiment, members)
    unknown += _leave_out_training(run, experiment, audited, sound)
    return Evidence(
        name=run.name,
        game=game,
        variants=facts,
        facts=_describe(experiment, game, models)
        | (describe_clients(run, audited) if experiment.federated else {})
        | ({FACT: borrowed.fact} if borrowed.fact else {}),
        excluded=excluded,
        left_out=[*models, *unknown, *images],
        experiment=experiment,
        images=None if data is None else data.pool,
        audited={str(name): _fingerprint(members[name]) for name in audited},
        seconds={str(n): known for n in finished if (known := read_seconds(run, n)) is not None},
        pruned=read_pruning(run, audited) if experiment.pruned else None,
    )


def _add_training(
    game: Game,
    run: RunFolder,
    experiment: Experiment,
    members: Mapping[ModelName, Bool[Tensor, " examples"]],
) -> Game:
    """Add what some kinds of training leave: widths of pruned models, rounds of federations."""
    if experiment.pruned:
        game = game._replace(widths=read_widths(run, experiment.names))
    if experiment.federated:
        playing = {model for case in game.cases for model in (case.target, *case.shadows)}
        names = [experiment.names[model] for model in sorted(playing)]
        game = game._replace(rounds=read_rounds(run, members, names))
    return game


def _leave_out_training(
    run: RunFolder,
    experiment: Experiment,
    audited: Sequence[ModelName],
    sound: Sequence[ModelName],
) -> list[str]:
    """Sentences on what is not known of pruning, and on what federations left out."""
    lost = leave_out_pruning(run, audited) if experiment.pruned else []
    return lost + (describe_left_out(run, sound) if experiment.federated else [])


def restrict(evidence: Evidence, choice: Choice) -> Evidence:
    """Keep the examples that all chosen attacks can score, and name what was left out."""
    here, usable = evidence.experiment is not None, choice.usable
    examples = leave_out_examples(choice)
    attacks = leave_out_attacks(choice, here, len(evidence.game.variants))
    count = {"audited examples": f"{usable.sum():,} of {len(usable):,}"} if examples else {}
    labels = {} if evidence.images is None else {"label": evidence.images.labels.tolist()}
    return evidence._replace(
        game=keep_examples(evidence.game, usable),
        facts=evidence.facts | count,
        examples=labels | {"left_out": why_left_out(choice)},
        left_out=[*evidence.left_out, *examples, *attacks],
    )


def check_cases(cases: Sequence[Case], excluded: Mapping[ModelName, str]) -> None:
    """Raise ValueError if too few models are left to audit."""
    against = len(cases[0].shadows) if cases else 0
    if against < 4:
        raise ValueError(
            f"An audit needs a model to audit and 4 shadows against it, got {len(cases)} and "
            f"{against}. Finish the fleet, or raise `--fleet.shadows` and `--fleet.targets`. "
            f"Excluded: {list_excluded(excluded)}."
        )


def list_excluded(excluded: Mapping[ModelName, str]) -> str:
    """Excluded models and the reasons, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in excluded.items()) or "none"


def _read_finished(
    run: RunFolder, variants: Sequence[str], allow_partial: bool
) -> tuple[list[ModelName], dict[ModelName, str]]:
    """Models whose files are all present and whole, and the unfinished models."""
    experiment = run.read()
    names, embedded, rounds = experiment.names, experiment.embedded, experiment.rounds
    lacking = (name for name in names if run.missing(name, variants, embedded, rounds))
    unfinished = dict.fromkeys(lacking, UNFINISHED)
    if unfinished and not allow_partial:
        raise ValueError(
            f"{len(unfinished)} of {len(names)} models are unfinished: "
            f"{', '.join(map(str, unfinished))}. Run train.py again to finish them, or pass "
            "`--partial` to audit the others."
        )
    finished = [name for name in names if name not in unfinished]
    if not finished:
        raise ValueError(f"No model in {run.path} is finished. Run train.py again.")
    for name in finished:
        kinds = run.signals, run.embeddings, run.record
        files = [file(name, v) for file in kinds for v in variants]
        check_unchanged(run.model(name), files)
    return finished, unfinished


def _find_failures(
    run: RunFolder,
    variants: Sequence[str],
    members: Mapping[ModelName, Tensor],
    finished: Sequence[ModelName],
) -> tuple[dict[ModelName, str], list[str]]:
    """Models that diverged or that quantization broke, and why; and what was not judged."""

    def signal(variant: str, key: str) -> SavedSignal:
        return SavedSignal([run.signals(name, variant) for name in finished], key)

    phi = {variant: signal(variant, "phi") for variant in variants}
    rows = _matrix({name: members[name] for name in finished})
    reasons = find_failures(phi, signal(FULL, "correct"), rows)
    return {finished[index]: reason for index, reason in reasons.items()}, unjudged(phi[FULL])


def _fingerprint(members: Bool[Tensor, " pool"]) -> str:
    return hashlib.sha256(members.numpy().tobytes()).hexdigest()[:16]


def _matrix(rows: Mapping[ModelName, Tensor]) -> Bool[Tensor, "models examples"]:
    return torch.stack(list(rows.values()))


def _read_signals(
    run: RunFolder, experiment: Experiment, data: ImageDataModule | None
) -> dict[str, ModelSignals]:
    """Signals of all models in every variant; audits never read those of unfinished models."""
    shared: dict[str, Any] = {}
    if data is not None:
        pool, test = data.levels(data.pool), data.levels(data.test)
        shared["features"] = make_features(pool, data.pool.labels, test, data.test.labels)
        shared["labels"] = data.pool.labels, data.test.labels
    signals = {}
    for variant in experiment.variants:
        paths = [run.signals(name, variant) for name in experiment.names]
        stored: dict[str, Any] = {key: SavedSignal(paths, key) for key in FIELDS}
        if experiment.embedded:  # audits read only those of the audited models
            paths = [run.embeddings(name, variant) for name in experiment.names]
            stored |= {field: SavedSignal(paths, key) for field, key in EMBEDDINGS.items()}
        signals[variant] = ModelSignals(**stored, **shared)
    return signals


def _read_facts(
    run: RunFolder, variant: str, audited: Sequence[ModelName], proven: Proven | None
) -> VariantFacts:
    """Facts about a variant apart from its leakage, from the audited models."""
    correct = load_signals([run.signals(name, variant) for name in audited], "test_correct")
    quantized = [] if is_trained(variant) else audited
    records = [r for name in quantized if (r := read_record(run, name, variant)) is not None]
    return VariantFacts(
        accuracy=mean_accuracy(correct),
        bytes=round(fmean(run.weights(name, variant).stat().st_size for name in audited)),
        quantization=average(records),
        accuracy_by_target=correct.double().mean(1).tolist(),
        proven=proven,
        cost=average_cost(records),
        search=average_search(records),
    )


def _cost_of_full(
    run: RunFolder, quantized: Sequence[str], audited: Sequence[ModelName]
) -> CostMeans | None:
    """Cost of the networks at full precision, each from the record of any variant."""
    records = []
    for name in audited:  # pruned networks differ
        known = (read_record(run, name, variant) for variant in quantized)
        records += [record for record in known if record is not None][:1]
    return average_cost(records, "full")


def _load_data(experiment: Experiment) -> tuple[ImageDataModule | None, list[str]]:
    """The images of an experiment, or a sentence if they are gone: an audit does without them."""
    config, fingerprint = experiment.config["data"], experiment.fingerprints["data"]
    try:
        return load_stored(config, experiment.places, fingerprint), []
    except ValueError as error:
        return None, [leave_out_images(str(error))]


def _describe(experiment: Experiment, game: Game, excluded: Sequence[str]) -> dict[str, str]:
    """Facts about the fleet, by label."""
    config, audited = experiment.config, str(len(game.cases))
    if not experiment.targets:
        audited += " (each shadow, attacked by the others without its partner)"
    return {
        "data": f"{config['data']['class_path']}, {game.members.shape[1]} examples, "
        f"fingerprint {experiment.fingerprints['data']}",
        "network": config["model"]["network"],
        "audited models": audited,
        "shadow models": f"{len(game.cases[0].shadows)} against each of them",
        "queries": ", ".join(experiment.queries),
        "excluded": " ".join(excluded) or "none",
        "versions": ", ".join(f"{key} {value}" for key, value in experiment.versions.items()),
    }
