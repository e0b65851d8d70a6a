"""Made-up learners of three tasks, whose differences are known."""

import json

import pytest

from attacks.continual.comparisons import Attacker, StateLeak, Transfer
from attacks.continual.leaks import ContinualLeak, TaskCell
from attacks.continual.risk_map import RiskGroup, RiskMap
from attacks.continual.rows import TaskRow
from attacks.continual.utility import Utility
from attacks.continual.variants import VariantLeak
from attacks.evaluate import Row
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from benchmarks.synthetic_heads import Options, make_game
from docs.continual.fleets import STAGES, keep, name_of, read
from reporting.results import Results, plain
from reporting.results_json import as_json
from storage.experiment import Experiment
from storage.records import VariantFacts

TARGETS, TASKS = 8, 3
AUC = [0.70, 0.72, 0.68, 0.71, 0.69, 0.70, 0.73, 0.67]  # right after a task, by the strongest
NOISE = [0.001, -0.001, 0.002, -0.002, 0.001, 0.0, -0.002, 0.001]  # adds up to 0
SIZES = {"finetune": 1, "sdmlp": 2, "ssd": -1, "ssd-ewc": -2, "acil": 3}  # of each fleet's noise
ANALYTIC = "acil", "dsal"
CONFIG = {
    "seed": 0,
    "data": {
        "class_path": "datamodules.digits.Digits",
        "init_args": {"pool_size": 1400, "batch_size": 32, "flip": False, "crop": 0},
    },
    "model": {"network": "mlp", "lr": 0.1, "momentum": 0, "weight_decay": 0},
    "continual": {
        "tasks": TASKS,
        "base_classes": None,
        "order_seed": None,
        "learner": "finetune",
        "joint": False,
        "replay": 0,
        "ewc": 0,
        "backbone_epochs": 0,
        "sdmlp": {"hidden": 1000, "k": 10, "switch": None},
        "analytic": {"buffer": 512, "gamma": 0.1},
    },
    "trainer": {"max_epochs": 250, "check_val_every_n_epoch": 250},
    "fleet": {"shadows": 16, "targets": TARGETS},
    "quantize": [],
}


def mean(values):
    value = sum(values) / len(values)
    return Estimate(value, value - 0.01, value + 0.01, 0.005)


def shift(values, beyond, noise=NOISE):
    return [value + beyond + extra for value, extra in zip(values, noise, strict=True)]


def summarise(values):
    return Summary(*(mean(known) for known in values.values()), TARGETS, 140, 11, 1)


def by_metric(auc):
    """Metrics that follow from the AUC: a rate at 1% FPR is half of what is beyond guessing."""
    rate = [0.01 + (value - 0.5) / 2 for value in auc]
    return {"auc": auc, "balanced_accuracy": auc, "tpr_1pct": rate, "tpr_01pct": rate}


def make_row(attack, auc, holds="snapshot", compares="shadows", control=False):
    values = by_metric(auc)
    return TaskRow(attack, holds, compares, control, summarise(values), values)


def make_cell(task, stage, change, loss, solves, size):
    """LiRA finds `change` more at the end, a loss attack begins 0.1 lower and finds `loss` more."""
    late = stage == TASKS and task < stage
    noise = [late * size * extra for extra in NOISE]
    lira = shift(AUC, late * change, noise)
    by_loss = shift(AUC, late * loss - 0.1, noise[::-1])
    rows = [make_row("loss", by_loss, compares="nothing"), make_row("residual_lira", lira)]
    own = shift(AUC, late * -0.05, noise[::-1])
    rows.append(make_row("residual_lira_own_columns", own, control=True))
    if solves:
        rows.append(make_row("residual_lira_worlds", shift(lira, -0.001), compares="worlds"))
        rows.append(make_row("leverage_float64", [1.0] * TARGETS, "state", "nothing"))
    return TaskCell(task, stage, rows)


def make_difference(value):
    return Difference("end", "after", mean([value]), 0.001, 0.01, 0.1)


def make_leak(change, loss, solves, size=1):
    cells = [
        make_cell(task, stage, change, loss, solves, size)
        for stage in range(1, TASKS + 1)
        for task in range(1, stage + 1)
    ]
    accuracy = [[mean([0.9])] * (stage + 1) for stage in range(TASKS)]
    area, rate = mean([0.99]), mean([0.8])
    leaks = [StateLeak(f"leverage_{form}", area, rate, area, rate) for form in ("float64", "int8")]
    groups = [RiskGroup(140, h, 0.5 + h, 0.1, mean([0.5 + h])) for h in (0.1, 0.3)]
    gain = {"auc": make_difference(change), "tpr_1pct": make_difference(change / 2)}
    attackers = [
        Attacker("snapshot", ["residual_lira"], mean(AUC), rate, rate, None),
        Attacker("state", ["leverage_float64"], area, rate, rate, make_difference(0.29)),
    ]
    return ContinualLeak(
        classes=[[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]],
        tasks=[1, 2, 3],
        stages=["task-1", "task-2", "full"],
        targets=TARGETS,
        shadows=16,
        false_positives={"tpr_1pct": 11, "tpr_01pct": 1},
        worlds=8 if solves else 0,
        world_seconds=0.02 if solves else float("nan"),
        cells=cells,
        utility=Utility(accuracy, mean([0.8]), mean([0.7]), mean([-0.2])),
        transfers=[Transfer("strongest", False, gain)],
        by_task=[make_difference(change)] * 2,
        attackers=attackers if solves else attackers[:1],
        state=leaks if solves else [],
        exemplars=None,
        risk_map=RiskMap("residual_lira_paired", groups, mean([0.9])) if solves else None,
        variants=[VariantLeak("full", area, rate, [area] * TASKS, whole=True)] if solves else [],
        left_out=[],
        precisions=[],
    )


def make_options(name):
    """The options of a fleet, by its name on the page."""
    learner, _, more = name.partition("-")
    options = {"learner": learner}
    if learner in ("joint", "replay", "ewc"):
        options, more = {}, learner
    return options | ({more: {"joint": True, "replay": 10, "ewc": 100}[more]} if more else {})


def make_results(name, change=0.0, loss=0.0, heads=None, **options):
    """An audit of a fleet.

    Args:
        name: what learns the tasks.
        change: what the strongest attack finds of earlier tasks at the end beyond right after each.
        loss: the same by a loss attack.
        heads: AUC and accuracy beyond full precision of each quantized variant.
        options: changes to its configuration, by section, and options of no section.
    """
    heads = {"full": (0.0, 0.0)} | (heads or {})
    config = CONFIG | {"continual": CONFIG["continual"] | make_options(name)}
    for key, value in options.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    config["quantize"] = [variant for variant in heads if variant != "full"]
    rows, variants = [], {}
    for variant, (leak, accuracy) in heads.items():
        sign = NOISE if variant != "full" else [0] * TARGETS
        values, shares = by_metric(shift(AUC, leak, sign)), shift([0.9] * TARGETS, accuracy, sign)
        rows.append(Row(variant, "matched", "lira_online", summarise(values), 16, [], values))
        variants[variant] = VariantFacts(mean(shares), 1, None, shares)
    variants["task-1"] = variants["full"]
    leak = make_leak(change, loss, name in ANALYTIC, SIZES.get(name, 1))
    return Results(
        name=name,
        inputs="",
        experiment=Experiment(
            config, {}, {"data": "d", "network": name}, {"torch": "2.14"}, {}, name
        ),
        basis={},
        variants=variants,
        rows=rows,
        findings={"continual": plain(leak)},
        tables=[],
        answer=[],
        sentences=[],
        audited={f"target-{number:03d}": f"members-{number}" for number in range(TARGETS)},
        seconds={"target-000": 3600.0},
    )


def make_records(forgotten, size):
    """Records of targets that lose a share of the accuracy of every task at the end."""
    records = []
    for extra in (size * extra for extra in NOISE):
        stages = [
            {"rows": 140, "accuracy": [0.9] * TASKS, "active": 10.5, "subnetwork": [1]}
            for _ in range(TASKS)
        ]
        stages[-1] |= {"late": 1}  # a fact that not all stages have
        stages[-1] = stages[-1] | {"accuracy": [0.9 - forgotten + extra] * (TASKS - 1) + [0.9]}
        records.append({"ends": [1, 2, 3], "classes": [], STAGES: stages})
    return records


def write_run(folder, name, change=0.0, loss=0.0, forgotten=0.2, heads=None, **options):
    """The run folder of a fleet, as far as the page reads it."""
    results, run_dir = make_results(name, change, loss, heads, **options), folder / "runs" / name
    (run_dir / "audit").mkdir(parents=True)
    (run_dir / "audit" / "results.json").write_text(as_json(results))
    for model, record in zip(
        results.audited, make_records(forgotten, SIZES.get(name, 1)), strict=True
    ):
        (run_dir / "models" / model).mkdir(parents=True)
        (run_dir / "models" / model / "full.json").write_text(json.dumps(record))
    return run_dir


@pytest.fixture(scope="session")
def write():
    """Writes the run folder of a fleet."""
    return write_run


@pytest.fixture(scope="session")
def name():
    """The name of a fleet by its options."""
    return lambda **options: name_of({"continual": CONFIG["continual"] | options})


@pytest.fixture(scope="session")
def leak_of():
    """Makes what is found of learners."""
    return make_leak


@pytest.fixture(scope="session")
def tasks_game():
    """Four shadows and one target that are solved on digits of two tasks."""
    return make_game(Options(pool=200, shadows=4, targets=1, tasks=2, width=32, worlds=2))


@pytest.fixture(scope="session")
def several(tmp_path_factory):
    """Makes fleets from their names and what they find, through kept files as the page does."""

    def make(**fleets):
        folder = tmp_path_factory.mktemp("continual")
        for name, known in fleets.items():
            key, text = keep(write_run(folder, name.replace("_", "-"), **known))
            (folder / f"{key}.json").write_text(text)
        return read(folder)

    return make


@pytest.fixture(scope="session")
def fleets(several):
    """Under acil leakage rises by 0.03, and a loss attack sees it fall; under finetune it falls."""
    heads = {"nearest-w8": (-0.001, 0.0), "nearest-w2": (-0.1, -0.05), "obc-w2": (-0.05, 0.001)}
    return several(
        finetune={"change": -0.1, "loss": -0.05, "forgotten": 0.9},
        sdmlp={"change": -0.05, "loss": -0.06, "forgotten": 0.4},
        ssd={"change": -0.02, "loss": -0.06, "forgotten": 0.3},
        acil={"change": 0.03, "loss": -0.04, "forgotten": 0.02, "heads": heads},
    )
