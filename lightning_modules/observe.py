"""What an attacker sees of one round: every model goes over the pool, in order, as it is."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.gradients import cosines, log_norms, logit_gradients
from attacks.signals import signals
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from lightning_modules.adversaries import State
from lightning_modules.example_gradients import direction_of, full_cosines
from lightning_modules.federated import set_tensors
from lightning_modules.federated_options import CosineName
from lightning_modules.float32 import tf32
from lightning_modules.last_layer import find_last_linear


class Seen(NamedTuple):
    """The models of a round.

    Attributes:
        start: the weights that an honest server sends out.
        sent: client -> the weights that it began with, `start` itself unless it is isolated.
        uploads: client -> its weights as the server has them.
        end: the weights after the round.
        others: `end` without the upload of the client that attacks; None where no client sees them.
    """

    start: State
    sent: Mapping[int, State]
    uploads: Mapping[int, State]
    end: State
    others: State | None = None


def leave_out(seen: Seen, attacker: int, sizes: Sequence[int]) -> State:
    """The mean of the other uploads, from what a client sees: (w - a w_own) / (1 - a).

    For its share a of the examples of the round, and its upload as it was rounded. In a round
    without the attacker, that is w itself; in one of its own alone, what was sent out.

    Args:
        seen: a round in which all clients began with the same weights.
        attacker: the client.
        sizes: number of examples of each client.
    """
    if attacker not in seen.uploads:
        return seen.end
    share = sizes[attacker] / sum(sizes[client] for client in seen.uploads)
    if share == 1:
        return seen.start
    others = {}
    for key, own in seen.uploads[attacker].items():
        others[key] = value = seen.end[key]
        if value.is_floating_point():
            others[key] = ((value.double() - share * own.double()) / (1 - share)).to(value.dtype)
    return others


@tf32(False)
@torch.no_grad()  # inference mode would keep `torch.func` from gradients
def record_round(
    network: nn.Module, seen: Seen, data: ImageDataModule, layers: CosineName = "last"
) -> dict[str, Tensor]:
    """The signals of one round, by their name in its file.

    Args:
        network: the architecture, which is changed.
        seen: the models.
        data: the pool.
        layers: whose gradients are compared with updates.
    """
    network = network.float().eval()
    last = find_last_linear(network, next(data.pool_batches("identity")).images[:2])
    ends = [*seen.uploads.values(), seen.end, *([seen.others] if seen.others else [])]
    begun = [seen.sent[client] for client in seen.uploads]
    begun += [seen.start] * (len(ends) - len(begun))
    before = {id(state): _Model(network, state, last) for state in begun}
    models = [_Model(network, state, last) for state in ends]
    rows = []
    for batch in data.pool_batches("identity"):
        looks = {key: model.see(batch) for key, model in before.items()}
        after = [model.see(batch) for model in models]
        phi = torch.stack([look.phi for look in after])
        norms = [log_norms(look.errors, look.features, models[0].biased) for look in after]
        angles = torch.empty(len(ends), len(batch.labels), dtype=torch.float64)
        for key, model in before.items():
            places = [place for place, state in enumerate(begun) if id(state) == key]
            targets = [models[place] for place in places]
            angles[places] = _angles(model, looks[key], targets, batch, layers)
        rows.append(torch.stack([phi, torch.stack(norms).float(), angles.float()]))
    phi, norms, angles = torch.cat(rows, 2)
    uploads = len(seen.uploads)
    record = {"participants": torch.tensor(list(seen.uploads), dtype=torch.int64)}
    for name, signal in (("phi", phi), ("gradient", norms), ("cosine", angles)):
        record |= {name: signal[:uploads], f"global_{name}": signal[uploads]}
        if seen.others:
            record[f"others_{name}"] = signal[uploads + 1]
    return {key: value.contiguous() for key, value in record.items()}


class _Look(NamedTuple):
    """What a model makes of a batch, on the CPU: p - y, what its last layer is given, and phi."""

    errors: Tensor
    features: Tensor
    phi: Tensor


class _Model:
    """A network with some weights, and what its last layer is given."""

    def __init__(self, network: nn.Module, state: State, layer: str) -> None:
        self.network = copy.deepcopy(network)
        set_tensors(self.network, state)
        last = cast(nn.Linear, self.network.get_submodule(layer))
        self.weight = last.weight.detach().double().cpu()
        self.bias = None if last.bias is None else last.bias.detach().double().cpu()
        self.biased = self.bias is not None
        self._last = last

    def see(self, batch: Batch) -> _Look:
        """Look at a batch."""
        features = list[Tensor]()
        hook = self._last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        logits, labels = self.network(batch.images).cpu(), batch.labels.cpu()
        hook.remove()
        phi = signals(logits, labels).phi
        return _Look(logit_gradients(logits, labels), features[-1].cpu(), phi)


def _angles(
    before: _Model, look: _Look, after: Sequence[_Model], batch: Batch, layers: CosineName
) -> Float[Tensor, "models batch"]:
    """Cosines of the gradients under one model with the ways from it to others."""
    if layers == "all":
        ways = torch.stack([direction_of(before.network, model.network) for model in after])
        return full_cosines(before.network, batch.images, batch.labels, ways).cpu()
    found = []
    for model in after:
        bias = None
        if before.bias is not None and model.bias is not None:
            bias = before.bias - model.bias
        found.append(cosines(look.errors, look.features, before.weight - model.weight, bias))
    return torch.stack(found)
