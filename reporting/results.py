"""The results of an audit, which every view shows and results.json holds."""

from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from typing import Any, NamedTuple

from torch import Tensor

from attacks.continual.leaks import ContinualLeak
from attacks.evaluate import Row, tail_metric
from attacks.game import FULL
from attacks.metrics.measures import Metric
from attacks.strongest import Strongest
from reporting.answer import answer
from reporting.attributes import sentences as attribute_sentences
from reporting.basis import describe_basis
from reporting.bounds import warn
from reporting.continual import continual_tables
from reporting.continual_precisions import precision_sentences
from reporting.continual_sentences import sentences as continual_sentences
from reporting.continual_sentences import understated
from reporting.continual_variants import variant_sentences
from reporting.cost import cost_table
from reporting.federated import ATTACKERS
from reporting.federated import sentences as federated_sentences
from reporting.findings import make_tables
from reporting.pruning import pruning_table
from reporting.tables import Table, exposed_table
from reporting.text import compare
from storage.evidence import Evidence
from storage.experiment import Experiment
from storage.pruning import PruningMeans
from storage.records import VariantFacts

METRICS: tuple[Metric, ...] = ("auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")
COSTS = ("flops", "weight_bytes", "activation_bytes", "intensity")
COUNTS = ("targets", "non_members", "false_positives_1pct", "false_positives_01pct")


class Results(NamedTuple):
    """All results of an audit, as plain values.

    Attributes:
        name: name of the experiment.
        inputs: fingerprint of everything that the results follow from.
        experiment: None for models that were trained elsewhere.
        basis: what the numbers rest on, by label.
        variants: facts about each variant beside its leakage.
        rows: every attack on every variant; the strongest on each is marked.
        findings: values by key, as `plain` makes them.
        tables: tables of the findings.
        answer: what the audit says, in four statements.
        sentences: the differences between variants, in words, and what rounds of federated training
            and learning in tasks leak.
        figures: names of the figures that were drawn.
        left_out: models, images, examples and attacks that were left out, one sentence each.
        audited: fingerprint of what each audited model trained on, by its name and in the order of
            `by_target`; empty if it is unknown.
        seconds: wall time of each finished model, by its name; empty if it is unknown.
        warnings: contradictions that somebody must look into, one sentence each.
        pruned: how the audited models were pruned; None if they were not.
    """

    name: str
    inputs: str
    experiment: Experiment | None
    basis: dict[str, str]
    variants: dict[str, VariantFacts]
    rows: list[Row]
    findings: dict[str, Any]
    tables: list[Table]
    answer: list[str]
    sentences: list[str]
    figures: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    audited: Mapping[str, str] = {}
    seconds: Mapping[str, float] = {}
    warnings: tuple[str, ...] = ()
    pruned: PruningMeans | None = None

    @property
    def tail(self) -> Metric:
        """The metric of risk in the tail; the other end of risk is the AUC."""
        return tail_metric(self.rows[0].summary)

    def strongest(self, metric: Metric) -> dict[str, Row]:
        """The strongest attack on each variant, by the AUC or by `tail`."""
        return {row.variant: row for row in self.rows if metric in row.strongest}


def make_results(
    evidence: Evidence, best: Strongest, findings: Mapping[str, Any], inputs: str
) -> Results:
    """Sum up an audit.

    Args:
        evidence: what the audit rests on.
        best: all attacks on all variants.
        findings: values by key, as `findings.find` computes them.
        inputs: fingerprint of everything that the results follow from.
    """
    differences = findings["differences"]
    against, images = differences.against_reference, evidence.images
    leaks = [findings[f"federated_{threat}"] for threat in ATTACKERS]
    attributes = [findings[f"attribute_{threat}"] for threat in ATTACKERS]
    # a server lacks all that a client does
    left_out = dict.fromkeys(sentence for leak in leaks if leak for sentence in leak.left_out)
    learned = findings["continual"]
    left_out |= dict.fromkeys(learned.left_out if learned else ())
    tables = [*make_tables(findings), *continual_tables(learned)]
    if (costs := cost_table(evidence.variants)) is not None:
        tables.append(costs)
    if images and images.pictures is None:  # in place of a gallery
        tables.append(exposed_table(findings["exposure"], images.labels))
    if evidence.pruned:
        tables.append(pruning_table(evidence.pruned))
    return Results(
        name=evidence.name,
        inputs=inputs,
        experiment=evidence.experiment,
        basis=describe_basis(evidence, best.rows),
        variants=evidence.variants,
        rows=best.rows,
        findings=plain(findings),
        tables=tables,
        answer=answer(
            best.rows,
            evidence.variants,
            differences,
            findings["shadows"],
            findings["frontier"],
            evidence.experiment is not None and evidence.experiment.continual,
        ),
        sentences=[
            compare({metric: group[variant] for metric, group in against.items()})
            for variant in against["auc"]
        ]
        + [sentence for leak in leaks for sentence in federated_sentences(leak)]
        + [sentence for leak in attributes for sentence in attribute_sentences(leak)]
        + continual_sentences(learned)
        + variant_sentences(learned)
        + precision_sentences(learned),
        left_out=(*evidence.left_out, *left_out),
        audited=evidence.audited,
        seconds=evidence.seconds,
        warnings=(*warn(findings["epsilon"]), *_warn_of_tasks(learned, best.rows)),
        pruned=evidence.pruned,
    )


def _warn_of_tasks(leak: ContinualLeak | None, rows: Sequence[Row]) -> list[str]:
    """A warning where the headline understates a learner of tasks."""
    headline = (r for r in rows if r.variant == FULL and "auc" in r.strongest)
    return [told for row in headline for told in understated(leak, row.summary.auc)]


def plain(value: Any) -> Any:  # noqa: ANN401
    """A value for JSON: named tuples become dictionaries, and numbers that JSON lacks None.

    Such numbers are an infinite threshold, which accuses nobody, and an unknown correlation.
    Tensors are omitted: exposure.csv has them.
    """
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if not isinstance(v, Tensor)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def flatten(row: Row, facts: VariantFacts) -> dict[str, Any]:
    """A row as one line of results.csv."""
    estimates = {"accuracy": facts.accuracy}
    estimates |= {metric: getattr(row.summary, metric) for metric in METRICS}
    line: dict[str, Any] = {key: getattr(row, key) for key in ("variant", "knowledge", "attack")}
    line["strongest"] = " ".join(row.strongest)
    for key, estimate in estimates.items():
        for field, number in estimate._asdict().items():
            end = "" if field == "value" else f"_{field}"
            line[f"{key}{end}"] = None if isnan(number) else number
    made, proven = facts.quantization, facts.proven
    return (
        line
        | {key: getattr(row.summary, key) for key in COUNTS}
        | {"shadows": row.shadows, "bytes": facts.bytes or None}
        | {"seconds": made.seconds if made else None}
        | {key: facts.cost and getattr(facts.cost, key) for key in COSTS}
        | {"epsilon_proven": proven and proven.epsilon, "delta": proven and proven.delta}
    )
