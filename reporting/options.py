"""The options of audit.py, in a module that imports neither torch nor plotting libraries."""

from pathlib import Path
from typing import Literal

from storage.command_line import CommandLine, make_command_line
from storage.names import WandbMode

DESCRIPTION = """\
Attack every variant of a fleet from its saved signals; report leakage beside accuracy.

Prints a table and writes RUN_DIR/audit: table.txt, results.csv, exposure.csv, results.json,
figures and report.html. `--signals` audits models that were trained elsewhere, `--compare` puts
audits of several experiments into one table and figure.
"""


def make_parser() -> CommandLine:
    """Every option."""
    parser = make_command_line("audit.py", DESCRIPTION)
    parser.add_argument("--run_dir", type=Path | None, help="folder that train.py filled")
    parser.add_argument(
        "--signals",
        type=Path | None,
        help="folder or .npz of models that were trained elsewhere; --run_dir is then the output",
    )
    parser.add_argument(
        "--shadows",
        type=Path | None,
        help="run folder of another experiment on the same pool and seed, whose shadows attack "
        "these targets too: the attacker who does not know how they were trained",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        type=Path,
        help="run folders whose audits are compared; --run_dir is then the output, by default "
        "compared-NAMES beside the first",
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        help="attacks to run, by name or by the import path of your own; by default (`default`) "
        "all for which the signals suffice, except attack_p, base and `_carlini`",
    )
    parser.add_argument(
        "--rmia.population",
        type=Literal["test", "pool"],
        default="test",
        help="what RMIA compares an example with: examples that no model trained on, or the other "
        "examples of the pool, as in the authors' code",
    )
    parser.add_argument(
        "--rmia.a",
        type=float | Literal["tuned"],
        default=0.3,
        help="how much higher offline RMIA takes a member's probability to be, from 0 (most) to 1 "
        "(no higher); tuned: chosen on shadows that pose as targets",
    )
    parser.add_argument("--partial", action="store_true", help="audit without unfinished models")
    # More threads help only with tens of thousands of examples, and wait on shared cores: beside
    # another process the demo's audit took 4 s with one thread and 38 s with two.
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--wandb", type=WandbMode, default="disabled", help="Weights & Biases, one run per audit"
    )
    return parser
