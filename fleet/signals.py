"""Run ONNX files over a data set, and write their logits for `audit.py --signals`.

Call it once for the shadows and once for the targets, with the same data and folder. A file is one
model; the rows of `--members` have their order. Any exporter's files will do.
"""

from collections.abc import Sequence
from pathlib import Path

from fleet.data_option import add_data
from fleet.options import parse
from storage.command_line import CommandLine, answer_help, make_command_line, show_every_character
from storage.names import Role


def make_parser(data: type | None = None) -> CommandLine:
    """All options of the command; see `fleet.options.make_parser`."""
    parser = make_command_line("python -m fleet.signals", __doc__)
    parser.add_argument("files", nargs="+", type=Path, help="ONNX files, one per model")
    parser.add_argument("--role", type=Role, required=True, help="what the models are")
    parser.add_argument(
        "--members",
        type=Path,
        required=True,
        help=".npy file, [models, examples] bool: which model trained on which example of the pool;"
        " or the run folder whose models fleet.export wrote",
    )
    parser.add_argument("--variant", required=True, help="a name of your choice, such as engine")
    parser.add_argument("--output", type=Path, required=True, help="folder to write or complete")
    parser.add_argument(
        "--queries", nargs="*", default=["identity"], help="views of an example, as in train.py"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of a session (default: 1)")
    add_data(parser, data)
    return parser


answer_help(make_parser, "signals.py", "bitleak-signals")  # before imports that take seconds

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.views import check_queries, is_random
from fleet.onnx_file import OnnxFile
from storage.command_line import quote
from storage.files import write_whole
from storage.names import EXPERIMENT_FILE
from storage.run_folder import RunFolder

Array = NDArray[np.generic]


def read_members(path: Path, files: Sequence[Path], role: Role, examples: int) -> NDArray[np.bool_]:
    """Which file's model trained on which example.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it does not hold a row of bools per file and a column per example.
    """
    if (path / EXPERIMENT_FILE).exists():
        rows = {str(name): row.numpy() for name, row in RunFolder(path).membership().items()}
        names = [re.match(rf"{role}-\d+", file.name) for file in files]
        odd = [
            f.name for f, name in zip(files, names, strict=True) if not name or name[0] not in rows
        ]
        if odd:
            raise ValueError(
                f"With a run folder as `--members`, files must be named for its models, such as"
                f" `{role}-000-nearest-w8-a8.onnx`, got {odd[0]}. It has {', '.join(rows)}."
            )
        members = np.stack([rows[name[0]] for name in names if name])
    elif path.is_file():
        try:
            members = np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"`--members` must be an array in a .npy file, got: {error}"
            ) from error
    else:
        raise FileNotFoundError(f"No {path} for `--members`: pass a .npy file or a run folder.")
    if members.dtype != bool or members.shape != (len(files), examples):
        raise ValueError(
            f"`--members` must be bool [{len(files)} files, {examples} examples of the pool], got"
            f" {members.dtype} {list(members.shape)}. Is it of another `--data.pool_size`?"
        )
    return members


def check_alike(folder: Path, arrays: dict[str, Array]) -> None:
    """Raise ValueError if the folder holds other labels or members than these."""
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        if path.exists() and not np.array_equal(np.load(path), array):
            raise ValueError(
                f"{path} was written for other examples or models. Use the same data and files in"
                " every call, or another `--output`."
            )


def record(
    files: Sequence[OnnxFile],
    batches: Callable[[str], Iterator[Batch]],
    queries: Sequence[str],
    shape: tuple[int, int],
    advance: Callable[[int], object],
) -> Callable[[Path], None]:
    """A function that writes logits [models, queries, examples, classes] to a path.

    Args:
        files: the models.
        batches: serves all examples in a view.
        queries: the views.
        shape: number of examples and of classes.
        advance: called with each number of examples that are done.
    """

    def write(path: Path) -> None:
        size = len(files), len(queries), *shape
        array = np.lib.format.open_memmap(path, "w+", np.float32, size)
        for number, query in enumerate(queries):
            begin = 0
            for batch in batches(query):
                end = begin + len(batch.labels)
                for model, file in enumerate(files):
                    array[model, number, begin:end] = file.logits(batch.images, shape[1]).numpy()
                    advance(len(batch.labels))
                begin = end
        array.flush()

    return write


def run_command(config: Any, data: ImageDataModule, console: Console) -> str:  # noqa: ANN401
    """Check everything, run the files and write the arrays; returns a line on what to do next."""
    if find_spec("onnxruntime") is None:
        raise ModuleNotFoundError("This needs onnxruntime. Run `pip install -e '.[export]'`.")
    if not re.fullmatch(r"[^/\\]+", config.variant) or config.variant in (".", ".."):
        raise ValueError(f"`--variant` must be a plain name, got `{config.variant}`.")
    files = [OnnxFile(path, config.threads) for path in config.files]
    data.prepare_data()
    data.setup("fit")
    queries = config.queries or ["identity"]
    check_queries(queries, data.flip, data.crop)
    if drawn := [query for query in queries if is_random(query)]:
        raise ValueError(
            f"`--queries` must be views that are the same for every model, got `{drawn[0]}`, which"
            " each model draws by its seed. Take identity, mirror or shift+2-1."
        )
    image = tuple(next(data.test_batches()).images.shape[1:])
    for file in files:
        file.check(image)
    examples, population = len(data.pool.labels), len(data.test.labels)
    members = read_members(config.members, config.files, config.role, examples)
    arrays: dict[str, Array] = {
        "labels": data.pool.labels.numpy(),
        "population_labels": data.test.labels.numpy(),
        f"{config.role}_members": members,
    }
    check_alike(config.output, arrays)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    total = len(files) * len(queries) * (examples + population)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            f"{len(files)} models, {examples + population} examples", total=total
        )
        advance = partial(progress.advance, task)
        for part, batches, count in (
            ("", data.pool_batches, examples),
            ("population_", data.test_batches, population),
        ):
            path = config.output / config.variant / f"{config.role}_{part}logits.npy"
            shape = count, data.num_classes
            write_whole(path, record(files, batches, queries, shape, advance))
    for name, array in arrays.items():
        write_whole(config.output / f"{name}.npy", partial(_save, array))
    return f"Then: python audit.py --signals {quote(config.output)} --run_dir FOLDER"


def _save(array: Array, path: Path) -> None:
    with path.open("wb") as file:  # `np.save` would add a suffix to the name
        np.save(file, array)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_every_character()
    parser, config = parse(sys.argv[1:] if arguments is None else arguments, make_parser)
    try:
        data = parser.instantiate(config).data
        print(run_command(config, data, Console(stderr=True)))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"fleet.signals: {error}")


if __name__ == "__main__":
    main()
