"""The evidence of an audit: signals, membership and facts, read from the files of a fleet."""

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.choice import Choice
from attacks.game import FULL, Game, ModelSignals, Proven, keep_examples
from attacks.metrics.intervals import mean_accuracy
from attacks.quantile import make_features
from attacks.tasks import Tasks
from datamodules.images import ImageDataModule, Images
from datamodules.stored import load_stored
from storage.borrowed import FACT, FIELDS
from storage.experiment import Experiment
from storage.federation import describe_left_out
from storage.left_out import (
    leave_out_attacks,
    leave_out_examples,
    leave_out_images,
    leave_out_models,
    why_left_out,
)
from storage.names import ModelName, in_order
from storage.playing import Playing, find_playing
from storage.privacy import is_trained, prove
from storage.pruning import PruningMeans, leave_out_pruning, read_pruning, read_widths
from storage.records import VariantFacts, average, read_calibrated, read_record, read_seconds
from storage.rounds import describe_clients, read_candidates, read_rounds
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal, load_signals
from storage.searches import CostMeans, average_cost, average_search
from storage.sparse_heads import describe_sparse_heads
from storage.tasks import NO_LABELS, describe_tasks, read_tasks
from storage.trade_offs import trade_offs

EMBEDDINGS = {"embeddings": "embeddings", "population_embeddings": "population"}  # in their files
NO_TABLE = "The attribute was not guessed: that takes the table. Put it back, and audit again."


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
    playing = find_playing(run, allow_partial, lender)
    experiment, members, audited = playing.experiment, playing.members, playing.audited
    variants, borrowed = experiment.compared, playing.borrowed
    models = [*leave_out_models(playing.excluded, trained_here=True), *borrowed.left_out]
    data, images = _load_data(experiment)
    # a diverged model has no record of its calibration
    calibrated = {v: read_calibrated(run, v, members, playing.sound) for v in variants}
    proven = prove(run, variants, audited) if experiment.private else {}
    facts = {v: _read_facts(run, v, audited, proven.get(v)) for v in variants}
    full = _cost_of_full(run, experiment.quantized, audited)
    facts |= {v: facts[v]._replace(cost=full) for v in (FULL, *in_order(variants))}
    seconds = {str(name): read_seconds(run, name) for name in playing.finished}
    signals = _read_signals(run, experiment, data)
    tasks, by_stage = _read_stages(run, playing, data, signals)
    game = Game(
        signals={variant: signals[variant] for variant in variants},
        members=torch.stack([*members.values()]),
        cases=playing.cases,
        calibrated={variant: mask for variant, mask in calibrated.items() if mask is not None},
        proven=proven,
        others=borrowed.signals,
        widths=read_widths(run, experiment.names) if experiment.pruned else None,
        rounds=read_rounds(run, members, playing.needed),
        other_rounds=borrowed.rounds,
        attribute=None if data is None else read_candidates(run, members, playing.needed, data),
        tasks=tasks,
        by_stage=by_stage,
        quantized_stages=_find_quantized_stages(experiment, signals) if by_stage else {},
        **trade_offs(facts)._asdict(),
    )
    return Evidence(
        name=run.name,
        game=game,
        variants=facts,
        facts=_describe(experiment, game, models)
        | (describe_clients(run, audited) if experiment.federated else {})
        | (describe_tasks(run, audited) if experiment.continual else {})
        | ({FACT: borrowed.fact} if borrowed.fact else {}),
        excluded=playing.excluded,
        left_out=[*models, *playing.unjudged, *_leave_out_training(run, playing, data), *images],
        experiment=experiment,
        images=None if data is None else data.pool,
        audited={str(name): _fingerprint(members[name]) for name in audited},
        seconds={name: known for name, known in seconds.items() if known is not None},
        pruned=read_pruning(run, audited) if experiment.pruned else None,
    )


def _leave_out_training(
    run: RunFolder, playing: Playing, data: ImageDataModule | None
) -> list[str]:
    """Sentences on what is not known of pruning, rounds or tasks, and what went wrong."""
    experiment = playing.experiment
    lost = leave_out_pruning(run, playing.audited) if experiment.pruned else []
    lost += [NO_TABLE] if experiment.attribute is not None and data is None else []
    lost += describe_left_out(run, playing.sound) if experiment.federated else []
    if experiment.continual:
        lost += describe_sparse_heads(run, playing.sound)
        lost += [NO_LABELS] if data is None else []
    return lost


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


def _fingerprint(members: Bool[Tensor, " pool"]) -> str:
    return hashlib.sha256(members.numpy().tobytes()).hexdigest()[:16]


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


def _read_stages(
    run: RunFolder,
    playing: Playing,
    data: ImageDataModule | None,
    signals: Mapping[str, ModelSignals],
) -> tuple[Tasks | None, dict[str, ModelSignals]]:
    """What was recorded of tasks, and the signals after each; none of other models."""
    experiment = playing.experiment
    if data is None or not experiment.continual:
        return None, {}
    labels = data.pool.labels.long()
    tasks = read_tasks(run, playing.needed, playing.audited, labels)
    return tasks, {stage: signals[stage] for stage in (*experiment.snapshots, FULL)}


def _find_quantized_stages(
    experiment: Experiment, signals: Mapping[str, ModelSignals]
) -> dict[str, dict[str, ModelSignals]]:
    """Signals of networks quantized after each task, by the name of the last, then their own."""
    made = experiment.quantized_by_snapshot.values()
    by_name = zip(experiment.quantized, *made, strict=True) if made else ()
    return {name: {v: signals[v] for v in (*early, name)} for name, *early in by_name}


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
