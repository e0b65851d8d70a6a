"""Write a run folder of ridge heads that learn the digits task by task, without training them.

What fits take minutes for, in seconds: for tests and for a first look at attacks.

    python -m benchmarks.synthetic_tasks /tmp/tasks
    python audit.py --run_dir /tmp/tasks
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.game import FULL, ModelSignals
from attacks.tasks import Stage, Tasks
from benchmarks.synthetic_heads import CLASSES, Options, make_game, read_digits
from storage.experiment import Experiment
from storage.files import save_whole
from storage.run_folder import RunFolder
from storage.tasks import LEVERAGES


def write_tasks(path: Path, options: Options) -> RunFolder:
    """Solve every model and write what train.py would have; weights are empty."""
    data, game = read_digits(options), make_game(options)
    tasks = game.tasks or Tasks([], data.pool.labels, [])
    stages = [tasks.stages[place] for place in range(options.tasks)]
    ends = list(range(1, options.tasks + 1))
    config = {
        "seed": options.seed,
        "data": {"class_path": "datamodules.Digits", "init_args": {"pool_size": options.pool}},
        "model": {"network": "ridge"},
        "trainer": {"max_epochs": options.tasks},
        "fleet": {"shadows": options.shadows, "targets": options.targets},
        "queries": ["identity"],
        "quantize": [],
        "continual": {
            "tasks": options.tasks,
            "learner": "acil",
            "ends": ends,
        },
    }
    fingerprints = {"data": data.fingerprint(), "network": "ridge"}
    versions: dict[str, str | int] = {"torch": str(torch.__version__), "threads": 1}
    sizes = {"num_classes": CLASSES, "channels": 1, "height": 8, "width": 8}
    experiment = Experiment(config, sizes, fingerprints, versions, {}, "01234567")
    run = RunFolder(path)
    run.open(experiment, game.members)
    for row, name in enumerate(experiment.names):
        for number, stage in enumerate(stages, start=1):
            save_whole(run.task(name, number), _content(stage, row))
        for variant, known in game.by_stage.items():
            save_whole(run.weights(name, variant), {})
            save_whole(run.signals(name, variant), _signal_file(known, row))
        rows = [int(game.members[row, tasks.task == task].sum()) for task in range(len(stages))]
        facts = [{"rows": count, "fewer_rows": count < options.width} for count in rows]
        record = {"ends": ends, "classes": tasks.classes, "stages": facts}
        run.record(name, FULL).write_text(json.dumps(record), encoding="utf-8")
    return run


def _content(stage: Stage, row: int) -> dict[str, Tensor]:
    """The file of one model's stage."""
    content = {"outputs": stage.outputs[row], "accuracy": stage.accuracy[row]}
    content |= {LEVERAGES[form]: signal[row] for form, signal in stage.leverage.items()}
    if stage.outside is not None:
        content["outside"] = stage.outside[row]
    if stage.solved is not None and row in stage.worlds:
        content["solved"] = stage.solved[row]
    if row in stage.worlds:
        outputs, leverage, members, seconds = stage.worlds[row]
        content |= {"world_outputs": outputs, "world_leverage": leverage}
        content |= {"world_members": members, "world_seconds": torch.tensor([seconds]).double()}
    return {key: tensor.contiguous() for key, tensor in content.items()}


def _signal_file(known: ModelSignals, row: int) -> dict[str, Tensor]:
    content: dict[str, Any] = {
        field: getattr(known, field)[row].contiguous()
        for field in ("phi", "hinge", "population", "population_hinge")
    }
    correct, test = content["hinge"] > 0, content["population_hinge"][0] > 0
    return content | {"correct": correct, "test_correct": test, "loss": -content["phi"]}


def main() -> None:
    """The command line: options of `Options`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("path", type=Path)
    for option in ("pool", "shadows", "targets", "tasks", "width", "worlds"):
        parser.add_argument(f"--{option}", type=int, default=getattr(Options(), option))
    parser.add_argument("--shuffle", action="store_true")
    arguments = vars(parser.parse_args())
    torch.set_num_threads(1)
    write_tasks(arguments.pop("path"), Options(**arguments))


if __name__ == "__main__":
    main()
