"""What a server of another framework wrote of one federation, round by round: files and layout.

    round-0001/global.safetensors       the weights that are sent out in round 1
    round-0001/client-003.safetensors   the weights that client 3 uploads in round 1
    round-0002/global.safetensors       the weights after round 1, sent out in round 2
    holders.npz or holders.safetensors  `holder`, integers: the client of each example, or -1

A round with uploads needs the global weights before it and after it.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from attacks.rounds import NOBODY

Shapes = dict[str, tuple[int, ...]]  # of a state dict's tensors, by name
SUFFIX, HOLDERS = ".safetensors", ("holders.npz", "holders.safetensors")


class Dump(NamedTuple):
    """One federation.

    Attributes:
        path: its folder.
        uploads: round -> client -> the file of its weights, of the rounds that have any.
        holder: the client that holds each example, or `NOBODY`.
    """

    path: Path
    uploads: dict[int, dict[int, Path]]
    holder: Int64[Tensor, " examples"]

    @property
    def rounds(self) -> list[int]:
        """Rounds with uploads, in order."""
        return list(self.uploads)

    @property
    def end(self) -> Path:
        """The global weights after the last of these rounds."""
        return self.sent(self.rounds[-1] + 1)

    def sent(self, number: int) -> Path:
        """The global weights that are sent out in a round."""
        return _global_file(self.path, number)

    def files(self) -> Iterator[Path]:
        """Every file of weights that is read, each once."""
        needed = dict.fromkeys(n for done in self.rounds for n in (done, done + 1))
        yield from map(self.sent, needed)
        for clients in self.uploads.values():
            yield from clients.values()


def read_dump(path: Path) -> Dump:
    """Read the layout of a dump; weights are not read.

    Raises:
        FileNotFoundError: the folder, global weights of a round or the holders are missing.
        ValueError: a file or a folder has an unknown name, or the holders are none.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"No folder {path}. Pass the folders that your server wrote.")
    uploads = {number: _read_clients(folder) for number, folder in _read_rounds(path).items()}
    uploads = {number: clients for number, clients in uploads.items() if clients}
    if not uploads:
        raise ValueError(
            f"{path} must have a round with uploads, such as round-0001/client-000{SUFFIX}, got "
            "none. docs/federated_dumps.md has the layout."
        )
    for number in uploads:
        for file, role in ((number, "sent out in"), (number + 1, "after")):
            if not (missing := _global_file(path, file)).exists():
                raise FileNotFoundError(
                    f"{missing} is missing, the global weights {role} round {number}, which has "
                    f"uploads. Write it, or take round {number}'s uploads away."
                )
    return Dump(path, uploads, _read_holder(path))


def check_together(dumps: Sequence[Dump]) -> None:
    """Raise ValueError if federations differ in their rounds, or in their number of examples."""
    first = dumps[0]
    for other in dumps[1:]:
        if odd := sorted(set(first.rounds) ^ set(other.rounds)):
            has, lacks = (first, other) if odd[0] in first.uploads else (other, first)
            raise ValueError(
                f"All federations must have uploads of the same rounds, but round {odd[0]} is in "
                f"{has.path} and missing in {lacks.path}. Take its uploads away, or write both."
            )
        if len(other.holder) != len(first.holder):
            raise ValueError(
                f"All federations must be on the same examples, got holders of {len(first.holder)} "
                f"in {first.path} and {len(other.holder)} in {other.path}."
            )


def check_shapes(dumps: Sequence[Dump], expected: Shapes, network: str) -> None:
    """Compare the tensors of all files with those of the network.

    Raises:
        ValueError: a file is damaged, or of another architecture, which the message names beside
            the first file of all, or beside the network.
    """
    first = next(dumps[0].files())
    for file in (file for dump in dumps for file in dump.files()):
        shapes = read_shapes(file)
        if shapes == expected:
            continue
        if file == first:
            raise ValueError(
                f"{file} must hold the weights of network {network}, but "
                f"{_differ(shapes, expected)}. Pass the `--model.network` and "
                "`--model.network_args` that clients train, and save its `state_dict()`."
            )
        raise ValueError(
            f"{file} is of another architecture than {first}: {_differ(shapes, expected)}. A "
            "federation has one network; audit each by itself."
        )


def read_shapes(path: Path) -> Shapes:
    """Names and shapes of a file's tensors, which are not read.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). Write it again by "
            "`safetensors.torch.save_file(state_dict, path)`."
        ) from error


def is_finite(state: dict[str, Tensor]) -> bool:
    """Whether all weights are numbers."""
    return all(bool(value.isfinite().all()) for value in state.values())


def _global_file(path: Path, number: int) -> Path:
    found = _read_rounds(path).get(number, path / f"round-{number:04d}")
    return found / f"global{SUFFIX}"


def _read_rounds(path: Path) -> dict[int, Path]:
    """The folders of rounds by number, in order."""
    names = [folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."]
    return _number(names, "round", f"{path} must have folders such as round-0001")


def _read_clients(folder: Path) -> dict[int, Path]:
    """The uploads of a round by client, in order."""
    names = [f for f in folder.glob(f"*{SUFFIX}") if f.stem != "global"]
    return _number(names, "client", f"{folder} must have global{SUFFIX} and client-000{SUFFIX}")


def _number(paths: Sequence[Path], word: str, expected: str) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for path in sorted(paths):
        match = re.fullmatch(rf"{word}-(\d+)", path.stem)
        if match is None:
            raise ValueError(f"{expected}, got {path.name}. Rename it, or take it away.")
        if (number := int(match[1])) in numbered:
            raise ValueError(
                f"{expected}, each number once, got {numbered[number].name} and {path.name}."
            )
        numbered[number] = path
    return dict(sorted(numbered.items()))


def _read_holder(path: Path) -> Int64[Tensor, " examples"]:
    present = [path / name for name in HOLDERS if (path / name).is_file()]
    if len(present) != 1:
        raise FileNotFoundError(
            f"{path} must have one of {' and '.join(HOLDERS)}, which says who holds which example, "
            f"got {len(present)}. Write it by `numpy.savez('holders.npz', holder=holder)`."
        )
    (file,) = present
    try:
        if file.suffix == ".npz":
            with np.load(file) as content:
                arrays = {key: torch.as_tensor(content[key]) for key in content.files}
        else:
            arrays = load_file(file)
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"{file} must hold integers, got: {error}. Write it again.") from error
    holder = arrays.get("holder", torch.empty(0))
    whole = not holder.is_floating_point() and holder.dtype != torch.bool
    if holder.ndim != 1 or not whole or not len(holder):
        given = ", ".join(f"`{k}` {v.dtype} {list(v.shape)}" for k, v in arrays.items())
        raise ValueError(
            f"{file} must hold `holder`, an integer per example, got {given or 'nothing'}."
        )
    if int(holder.min()) < NOBODY or not (holder >= 0).any() or not (holder < 0).any():
        raise ValueError(
            f"`holder` in {file} must be {NOBODY} for examples that nobody holds and a client's "
            f"number for the others, both of them, got {int(holder.min())} to {int(holder.max())}. "
            "Non-members are examples of the same kind that no client trained on."
        )
    return holder.long()


def _differ(given: Shapes, expected: Shapes) -> str:
    """The first tensor by which two state dicts differ, and how many more do."""
    names = [k for k in dict.fromkeys([*expected, *given]) if given.get(k) != expected.get(k)]
    shown = [
        f"{list(shapes[names[0]])}" if names[0] in shapes else "missing"
        for shapes in (given, expected)
    ]
    more = f", and {len(names) - 1} more tensors differ" if len(names) > 1 else ""
    return f"`{names[0]}` is {shown[0]} in it and {shown[1]} there{more}"
