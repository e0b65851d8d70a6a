"""Record what an attacker sees of rounds that another framework trained, for `audit.py --signals`.

A dump is a folder with the weights that a server sent out and got back in each round, and who holds
which example: docs/federated_dumps.md has the layout, and code for Flower. Each dump is a
federation. Non-members are the examples of the data that no client holds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fleet.data_option import add_data
from fleet.options import parse
from storage.command_line import CommandLine, answer_help, make_command_line, show_every_character


def make_parser(data: type | None = None) -> CommandLine:
    """All options of the command; see `fleet.options.make_parser`."""
    parser = make_command_line("python -m fleet.dumps", __doc__, ("model.network_args",))
    parser.add_argument("dumps", nargs="+", type=Path, help="folders of federations to audit")
    parser.add_argument(
        "--shadows",
        nargs="*",
        type=Path,
        default=[],
        help="folders of 4 or more federations on other halves of the same examples, which attack; "
        "without, clients are compared with one another",
    )
    parser.add_argument(
        "--model.network", required=True, help="name of the network, or import path of your own"
    )
    parser.add_argument(
        "--model.network_args", type=dict[str, Any], default={}, help="its keyword arguments"
    )
    parser.add_argument(
        "--clients",
        type=int,
        help="number of clients, if some hold examples and never upload (default: as many as do)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    add_data(parser, data)
    return parser


answer_help(make_parser, "dumps.py", "bitleak-dumps")  # before imports that take seconds

import copy
import sys
from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from attacks.federated.view import FEWEST_CLIENTS
from attacks.rounds import NOBODY
from datamodules.images import Batch, ImageDataModule
from lightning_modules.federated import set_tensors
from lightning_modules.float32 import tf32
from lightning_modules.last_layer import find_last_linear
from lightning_modules.networks import build_network
from lightning_modules.observe import Seen, record_round
from storage.command_line import quote
from storage.dumps import Dump, check_shapes, check_together, is_finite, read_dump
from storage.external_rounds import Recorded, federation_folder
from storage.files import save_whole, write_whole
from storage.names import CLIENTS_FILE, ModelName, fleet_names, round_file

FEWEST_SHADOWS = 4


def run_command(config: Any, data: ImageDataModule, console: Console) -> str:  # noqa: ANN401
    """Check everything, record all rounds; returns a line on what to do next.

    Raises:
        FileNotFoundError, ValueError: a dump, the network or the data do not fit together.
    """
    if 0 < len(config.shadows) < FEWEST_SHADOWS:
        raise ValueError(
            f"`--shadows` must be {FEWEST_SHADOWS} federations or more, or none, got "
            f"{len(config.shadows)}. Without, clients are compared with one another."
        )
    names = fleet_names(len(config.shadows), len(config.dumps))
    paths = [*config.shadows, *config.dumps]
    dumps = {name: read_dump(path) for name, path in zip(names, paths, strict=True)}
    check_together([*dumps.values()])
    clients = count_clients([*dumps.values()], config.clients)
    data.prepare_data()
    data.setup("fit")
    check_examples(dumps[names[0]], data)
    name, shape = config.model.network, tuple(data.pool.shape[1:])
    arguments = config.model.network_args
    network = build_network(name, data.num_classes, len(data.mean), arguments, shape).float().eval()
    find_last_linear(network, next(data.pool_batches("identity")).images[:2])
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    check_shapes([*dumps.values()], expected, name)
    for line in describe(dumps, clients):
        console.print(line, soft_wrap=True)
    left_out: dict[str, dict[int, list[int]]] = {}
    for federation, dump in dumps.items():
        folder = federation_folder(config.output, federation)
        lost = record(network, dump, data, folder, console)
        left_out |= {str(federation): lost} if lost else {}
        for number, broken in lost.items():
            listed = ", ".join(f"client {client}" for client in broken)
            console.print(
                f"{dump.path}: {listed} uploaded weights that are not finite in round {number}, "
                "which are left out.",
                soft_wrap=True,
            )
    write_arrays(config.output, network, dumps, data)
    recorded = Recorded(clients, dumps[names[0]].rounds, left_out)
    recorded.write(config.output)
    return f"Then: python audit.py --signals {quote(config.output)} --run_dir FOLDER"


def count_clients(dumps: Sequence[Dump], given: int | None) -> int:
    """Number of clients of each federation.

    Raises:
        ValueError: holders or uploads name a client beyond it.
    """
    uploading = {c for dump in dumps for by_client in dump.uploads.values() for c in by_client}
    count = max(uploading) + 1 if given is None else given
    if count <= max(uploading):
        raise ValueError(
            f"`--clients` must be {max(uploading) + 1} or more, because client {max(uploading)} "
            f"uploads, got {count}. They are counted from 0."
        )
    for dump in dumps:
        if (last := int(dump.holder.max())) >= count:
            raise ValueError(
                f"The holders in {dump.path} name client {last}, and clients 0 to {count - 1} "
                f"upload. Correct `holder`, or pass `--clients {last + 1}` if this client never "
                "took part in these rounds."
            )
    return count


def check_examples(dump: Dump, data: ImageDataModule) -> None:
    """Raise ValueError if holders are of another number of examples than the data has."""
    if len(dump.holder) != len(data.pool.labels):
        raise ValueError(
            f"`holder` in {dump.path} must name a client for each of the {len(data.pool.labels)} "
            f"examples of the data, in its order, got {len(dump.holder)}. Bring a test split of "
            "its own (`x_test` and `y_test`, or a folder `test`), which is otherwise drawn from "
            "them, and leave `--data.pool_size` out."
        )


def describe(dumps: Mapping[ModelName, Dump], clients: int) -> list[str]:
    """Lines on what was found, and on what cannot be measured."""
    rounds = next(iter(dumps.values())).rounds
    shadows = sum(name.role == "shadow" for name in dumps)
    lines = [
        f"Federations of {clients} clients: {len(dumps) - shadows} to audit, {shadows} shadows. "
        f"Recorded rounds: {', '.join(map(str, rounds))}."
    ]
    for name, dump in dumps.items():
        sizes = torch.bincount(dump.holder[dump.holder >= 0], minlength=clients).tolist()
        if idle := [client for client, size in enumerate(sizes) if not size]:
            lines.append(
                f"{name}: client {', '.join(map(str, idle))} holds no example of this data, and is "
                "only a peer of the others."
            )
    fewest = min(len(by) for dump in dumps.values() for by in dump.uploads.values())
    if fewest < FEWEST_CLIENTS:
        lines.append(
            f"Comparing clients with their peers takes {FEWEST_CLIENTS} uploads in every round, "
            f"and one has {fewest}: these attacks will be left out."
        )
    return lines


def record(
    network: nn.Module, dump: Dump, data: ImageDataModule, folder: Path, console: Console
) -> dict[int, list[int]]:
    """Write what an attacker sees of a federation, as `RecordRounds` does.

    Returns:
        Round -> clients whose uploads are not finite, which are left out.

    Raises:
        ValueError: global weights are not finite, or nobody is left of a round.
    """
    left_out: dict[int, list[int]] = {}
    save_whole(folder / CLIENTS_FILE, {"holder": dump.holder.to(torch.int16)})
    for number in track(dump.rounds, f"Recording {dump.path.name}", console=console):
        start, end = (_load_global(dump.sent(n)) for n in (number, number + 1))
        states = {client: load_file(path) for client, path in dump.uploads[number].items()}
        uploads = {client: state for client, state in states.items() if is_finite(state)}
        if broken := sorted(states.keys() - uploads.keys()):
            left_out[number] = broken
        if not uploads:
            raise ValueError(
                f"No upload of round {number} in {dump.path} is finite. Take this round's uploads "
                "away in every dump."
            )
        seen = Seen(start, dict.fromkeys(uploads, start), uploads, end)
        signals = record_round(copy.deepcopy(network), seen, data)
        save_whole(folder / round_file(number), signals)
    return left_out


def write_arrays(
    output: Path, network: nn.Module, dumps: Mapping[ModelName, Dump], data: ImageDataModule
) -> None:
    """Write labels, membership, and the logits of every federation's last global model."""
    arrays = {"labels": data.pool.labels.numpy(), "population_labels": data.test.labels.numpy()}
    sizes = {"": len(data.pool.labels), "population_": len(data.test.labels)}
    for role in ("shadow", "target"):
        own = [dump for name, dump in dumps.items() if name.role == role]
        held = [(dump.holder != NOBODY).numpy() for dump in own]
        arrays[f"{role}_members"] = np.array(held, dtype=bool).reshape(len(own), sizes[""])
        for part, batches in (("", data.pool_batches), ("population_", data.test_batches)):
            logits = [_compute_logits(network, dump, batches("identity")) for dump in own]
            shape = len(own), sizes[part], data.num_classes
            stacked = torch.stack(logits) if logits else torch.empty(shape)
            arrays[f"full/{role}_{part}logits"] = stacked.numpy()
    for name, array in arrays.items():
        write_whole(output / f"{name}.npy", partial(_save, array))


@tf32(False)
@torch.inference_mode()
def _compute_logits(network: nn.Module, dump: Dump, batches: Iterable[Batch]) -> Tensor:
    own = copy.deepcopy(network)
    set_tensors(own, _load_global(dump.end))
    return torch.cat([own(batch.images) for batch in batches])


def _load_global(path: Path) -> dict[str, Tensor]:
    state = load_file(path)
    if not is_finite(state):
        raise ValueError(
            f"{path} must hold finite weights, got NaN or infinite ones: this federation diverged. "
            "Leave it out, or its rounds from there on."
        )
    return state


def _save(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:  # `np.save` would add a suffix to the name
        np.save(file, array)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_every_character()
    parser, config = parse(sys.argv[1:] if arguments is None else arguments, make_parser)
    torch.set_num_threads(config.threads)
    try:
        data = parser.instantiate(config).data
        print(run_command(config, data, Console(stderr=True)))
    except (ValueError, OSError) as error:
        sys.exit(f"fleet.dumps: {error}")


if __name__ == "__main__":
    main()
