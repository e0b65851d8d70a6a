"""The options of train.py and their parser; importing them imports neither torch nor Lightning.

`--help` must answer at once, so checks that need data or devices are in checks.py.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from jsonargparse import Namespace

from fleet.data_option import add_data, find_options
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import (
    CalibrationOptions,
    ModelOptions,
    PruneOptions,
    TrainerOptions,
)
from quantization.mixed_options import MixedOptions
from storage.command_line import CommandLine, make_command_line
from storage.names import WandbMode

DESCRIPTION = """Train a fleet, quantize every model, and record what an attacker would see of it.

The same command again goes on where it stopped; a finished fleet is left as it is.
"""
Bits = int | float


class FleetOptions:
    """Number of models in an experiment, and which of them this call trains.

    Args:
        shadows: number of models that the attacker learns from; even, because they come in
            complementary pairs.
        targets: number of models that are audited; with 0, every shadow is audited by the others.
        models: models that this call trains, such as 0-7,12: shadows from 0, then targets; all by
            default.
        retrain_failed: set models that diverged aside, and train them from another start.
        workers: number of models to train at once, each in a process of its own.
        gpus_per_model: share of a GPU per worker; 0.25 packs four models on one GPU.
        address: address of a Ray cluster, `auto` or host:port; by default Ray uses this machine.
        dry_run: check everything, try some steps, print the work and its cost, and write nothing.

    Raises:
        ValueError: a count out of range, or shares of a GPU without workers.
    """

    def __init__(
        self,
        shadows: int = 16,
        targets: int = 4,
        models: str | None = None,
        retrain_failed: bool = False,
        workers: int = 1,
        gpus_per_model: float = 0.0,
        address: str | None = None,
        dry_run: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"`fleet.workers` must be 1 or more, got {workers}.")
        if not 0 <= gpus_per_model <= 1:
            raise ValueError(f"`fleet.gpus_per_model` must be 0 to 1, got {gpus_per_model}.")
        self.shadows, self.targets = shadows, targets
        self.models, self.retrain_failed = models, retrain_failed
        self.workers, self.gpus_per_model, self.address = workers, gpus_per_model, address
        self.dry_run = dry_run
        if gpus_per_model and not self.apart:
            raise ValueError("`fleet.gpus_per_model` needs `--fleet.workers` of 2 or more.")

    @property
    def apart(self) -> bool:
        """Whether models are trained in processes of their own, not in this one."""
        return self.workers > 1 or self.address is not None


def make_parser(data: type | None = None) -> CommandLine:
    """All options of train.py.

    Args:
        data: base class of the data sets; None for `--help`, which imports none of them.
    """
    parser = make_command_line("train.py", DESCRIPTION, ("layer_bits", "model.network_args"))
    parser.add_argument("--config", action="config", help="recipe (YAML) with options")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--status", action="store_true", help="show how far the fleet is, and exit")
    parser.add_argument("--repair", action="store_true", help="make damaged files again")
    parser.add_argument(
        "--threads", type=int, help="CPU threads per model; 1 is fastest for small networks"
    )
    _add_variants(parser)
    parser.add_argument(
        "--checkpoint_every",
        type=float,
        default=60.0,
        help="least number of seconds between two checkpoints of a model; 0 writes one after every "
        "epoch (default: 60)",
    )
    parser.add_argument(
        "--wandb", type=WandbMode, default="disabled", help="Weights & Biases, one run per model"
    )
    parser.add_class_arguments(CalibrationOptions, "calibration")
    parser.add_class_arguments(MixedOptions, "mixed")
    parser.add_class_arguments(FleetOptions, "fleet")
    add_data(parser, data)
    parser.add_class_arguments(ModelOptions, "model", instantiate=False)
    parser.add_class_arguments(PruneOptions, "prune", instantiate=False)
    parser.add_class_arguments(FederatedOptions, "federated", instantiate=False)
    parser.add_class_arguments(ContinualOptions, "continual", instantiate=False)
    parser.add_class_arguments(TrainerOptions, "trainer", instantiate=False)
    return parser


def _add_variants(parser: CommandLine) -> None:
    """Add the options that say which variants each model has, and what is recorded of them."""
    parser.add_argument(
        "--quantize",
        nargs="*",
        default=["adaround-w4", "adaround-w2", "adaround-w1.58"],
        help="variants besides full, such as nearest-w4, adaround-w2-last8, "
        "brecq-w1.58-nonmembers, adaround-mix3 (bits chosen per layer), the control "
        "adaround-w2-noise, or my_package.my_rounding-w4, by the import path of your own",
    )
    parser.add_argument(
        "--quantize_snapshots",
        type=bool,
        default=False,
        help="quantize the end of each task too, by every name of --quantize: task-1-nearest-w4; "
        "for learners of tasks, of which a finished fleet gets them too",
    )
    parser.add_argument(
        "--snapshots",
        nargs="*",
        type=int,
        default=[],
        help="epochs such as 5 10 15 at whose end each model is kept as a variant of its own, "
        "epoch-05: what stopping early would leak; a snapshot costs a file of weights and a pass "
        "over the pool",
    )
    parser.add_argument(
        "--layer_bits",
        type=dict[str, Bits],
        default={},
        help='bits of some layers in every variant, by name or pattern: {"fc": 8, "layer1.*": 4}; '
        "or the record of another model's variant, such as "
        "runs/a/models/target-000/adaround-mix3.json, for its bits",
    )
    parser.add_argument(
        "--queries",
        nargs="*",
        help="views that the attacker asks for: identity, mirror, shift+2-1, or random-0, which "
        "each model draws for itself (default: the views of training)",
    )
    parser.add_argument(
        "--record_embeddings",
        type=bool,
        default=False,
        help="record 32 numbers of what each audited model computes of an image before its last "
        "layer, for the attack `quantile_embeddings`; a finished fleet gets them too",
    )


def parse(
    arguments: Sequence[str], make: Callable[[type | None], CommandLine] = make_parser
) -> tuple[CommandLine, Namespace]:
    """Parse the arguments of a command with a data set, or exit with help or a one-line error.

    Args:
        arguments: the arguments after the command's name.
        make: makes the parser, for the base class of the data sets or for `--help`; that of
            train.py by default.

    Returns:
        The parser, which makes the data set and the fleet's options, and the parsed options.
    """
    if {"-h", "--help"}.intersection(arguments):
        make(None).read(["--help"])
    data = import_module("datamodules").ImageDataModule  # imports torch and Lightning
    parser, arguments = make(data), _spell_out(arguments)
    try:
        arguments = [*_read_bits(arguments)]
        name, known, dropped = find_options(arguments)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if name is None:  # a default in the parser would pass its pool size on to other data sets
        arguments = ["--data", "datamodules.Digits", *arguments]
    return parser, parser.read(arguments, known, dropped)


def _spell_out(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--prune ocs` as `--prune.method ocs`."""
    short = re.compile(r"--prune(?==|$)")
    return [short.sub("--prune.method", argument) for argument in arguments]


def _read_bits(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments, with the bits in a record in the place of its path."""
    before = ""
    for argument in arguments:
        option, equals, value = argument.rpartition("=")
        if option not in ("", "--layer_bits") or not value.endswith(".json"):
            yield argument
        elif equals or before == "--layer_bits":
            bits = import_module("storage.records").read_bits(Path(value))
            yield f"{option}{equals}{json.dumps(bits)}"
        else:
            yield argument
        before = argument
