"""What was recorded of federated training: the files of clients and rounds, read into `Rounds`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attacks.game import FULL
from attacks.rounds import NOBODY, SIGNALS, Rounds
from storage.checksums import check_unchanged
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder

WAY_OUT = "Run train.py again with `--repair`, or `python -m fleet.dumps` where that wrote it."


class _Round(NamedTuple):
    """A file of one round."""

    participants: Int64[Tensor, " uploads"]
    signals: dict[str, Tensor]


def read_rounds(
    run: RunFolder,
    members: Mapping[ModelName, Bool[Tensor, " examples"]],
    used: Sequence[ModelName],
) -> Rounds | None:
    """Read what was recorded of some models; None if they were not trained by clients.

    Signals are float32: 12 bytes for each model, recorded round, client and example. Those without
    the attacking client's upload are read if every file has them; folders from before have none.

    Args:
        run: the experiment's folder.
        members: which example each of its models trained on, in the fleet's order.
        used: models that are audited or attack; the rows of the others hold nothing.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, has other shapes, unknown clients or numbers that are not
            finite, or clients hold other examples than the model trained on.
    """
    experiment = run.read()
    done, clients = experiment.rounds, experiment.clients
    if not done or clients is None:
        return None
    files = {}
    for row, name in enumerate(members):
        if name in used:
            files[row] = [run.clients(name), *(run.round(name, number) for number in done)]
            check_unchanged(run.model(name), files[row])
    known = torch.stack([*members.values()])
    return join_rounds(files, known, done, clients, experiment.adversary)


def join_rounds(
    files: Mapping[int, Sequence[Path]],
    members: Bool[Tensor, "models examples"],
    done: Sequence[int],
    clients: int,
    adversary: str | None = None,
) -> Rounds:
    """Read the files of some federations.

    Args:
        files: by row of the membership, the holders and then one file per round.
        members: which model trained on which example.
        done: the rounds.
        clients: number of clients of each federation.
        adversary: who acts maliciously; None if everybody is honest.

    Raises:
        FileNotFoundError, ValueError: as `read_rounds`.
    """
    models, examples = members.shape
    shape = models, len(done), clients, examples
    uploads = {name: torch.full(shape, torch.nan) for name in SIGNALS}
    aggregates, others = (
        {name: torch.full((models, len(done), examples), torch.nan) for name in SIGNALS}
        for _ in range(2)
    )
    holder, complete = torch.full((models, examples), NOBODY), True
    for row, (holders, *by_round) in files.items():
        holder[row] = _read_holder(holders, members[row], clients)
        for place, file in enumerate(by_round):
            participants, signals = _read_round(file, examples, clients)
            for signal in SIGNALS:
                uploads[signal][row, place, participants] = signals[signal]
                aggregates[signal][row, place] = signals[f"global_{signal}"]
                if (rest := signals.get(f"others_{signal}")) is None:
                    complete = False
                else:
                    others[signal][row, place] = rest
    known = others if complete else None
    return Rounds(done, uploads, aggregates, holder, known, adversary)


def describe_clients(run: RunFolder, audited: Iterable[ModelName]) -> dict[str, str]:
    """How models were trained over clients, by label; bytes are those of the audited models.

    Raises:
        ValueError: a record is damaged.
    """
    experiment = run.read()
    rounds = ", ".join(map(str, experiment.rounds))
    facts = {"clients": f"{experiment.clients} of each model; recorded rounds: {rounds}"}
    if (adversary := experiment.adversary) is not None:
        strength = experiment.config["federated"]["strength"]
        facts["adversary"] = f"{adversary}, strength {strength:g}"
    records = [record for name in audited if (record := read_record(run, name, FULL))]
    uploaded = [fmean(record["bytes"]) for record in records if record.get("bytes")]
    if uploaded:
        facts["uploads"] = f"{fmean(uploaded):,.0f} bytes per round, of all clients together"
    return facts


def _read_holder(
    path: Path, members: Bool[Tensor, " examples"], clients: int
) -> Int64[Tensor, " examples"]:
    holder = _load(path, ("holder",))["holder"].long()
    if holder.shape != members.shape or not (holder < clients).all():
        raise ValueError(
            f"{path} must name one of {clients} clients for each of {len(members)} examples, got "
            f"shape {list(holder.shape)} and clients up to {int(holder.max())}. {WAY_OUT}"
        )
    if not torch.equal(holder != NOBODY, members):
        raise ValueError(
            f"The clients in {path} hold other examples than the membership says, which "
            "would make members of non-members. Restore both from one copy, or train again."
        )
    return holder


def _read_round(path: Path, examples: int, clients: int) -> _Round:
    names = [*SIGNALS, *(f"global_{name}" for name in SIGNALS)]
    content = _load(path, ("participants", *names))
    names += [name for signal in SIGNALS if (name := f"others_{signal}") in content]
    participants = content.pop("participants")
    listed = participants.tolist() if participants.ndim == 1 else [-1]
    if sorted(set(listed) & set(range(clients))) != listed:
        raise ValueError(
            f"`participants` in {path} must be ascending numbers of {clients} clients, got "
            f"{participants.tolist()}. {WAY_OUT}"
        )
    for name in names:
        signal = content[name]
        expected = (len(listed), examples) if name in SIGNALS else (examples,)
        if tuple(signal.shape) != expected:
            raise ValueError(
                f"`{name}` in {path} must have shape {list(expected)}, got {list(signal.shape)}. "
                f"{WAY_OUT}"
            )
        if broken := int((~signal.isfinite()).sum()):
            raise ValueError(
                f"`{name}` in {path} must be finite, got {broken} numbers that are not. Train that "
                "model again by `train.py --fleet.retrain_failed true`, or lower `--model.lr`."
            )
    return _Round(participants.long(), content)


def _load(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, without which federations cannot be attacked round by round. "
            f"{WAY_OUT}"
        )
    try:
        content = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole file ({error}). {WAY_OUT}") from error
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} lacks {', '.join(missing)}. {WAY_OUT}")
    return content
