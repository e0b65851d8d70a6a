"""What an attacker sees of one round: every model goes over the pool, in order, as it is."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attacks.gradients import cosines, log_norms, logit_gradients
from attacks.rounds import ATTRIBUTE, SIGNALS
from attacks.signals import signals
from datamodules.attributes import Attribute, vary
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
    network: nn.Module,
    seen: Seen,
    data: ImageDataModule,
    layers: CosineName = "last",
    attribute: Attribute | None = None,
) -> dict[str, Tensor]:
    """The signals of one round, by their name in its file.

    Args:
        network: the architecture, which is changed.
        seen: the models.
        data: the pool.
        layers: whose gradients are compared with updates.
        attribute: a column whose values are tried in turn in the place of the examples' own.
    """
    network = network.float().eval()
    last = find_last_linear(network, next(data.pool_batches("identity")).images[:2])
    ends = [*seen.uploads.values(), seen.end, *([seen.others] if seen.others else [])]
    begun = [seen.sent[client] for client in seen.uploads]
    begun += [seen.start] * (len(ends) - len(begun))
    before = {id(state): _Model(network, state, last) for state in begun}
    models = [_Model(network, state, last) for state in ends]
    ways = [(before[id(state)], model) for state, model in zip(begun, models, strict=True)]
    rows = []
    for batch in data.pool_batches("identity"):
        versions = [batch, *(vary(data, attribute, batch) if attribute else ())]
        rows.append(torch.stack([_see(ways, version, layers) for version in versions]))
    own, *others = torch.cat(rows, 3)
    uploads = len(seen.uploads)
    record = {"participants": torch.tensor(list(seen.uploads), dtype=torch.int64)}
    record |= _name(own, uploads)
    if others:
        tried = _name(torch.stack(others, 1), uploads)
        record |= {f"{ATTRIBUTE}{key}": part for key, part in tried.items()}
    return {key: value.contiguous() for key, value in record.items()}


def _see(
    ways: "Sequence[tuple[_Model, _Model]]", batch: Batch, layers: CosineName
) -> Float[Tensor, "signals models batch"]:
    """The signals of a batch under every model, given what each of them began with."""
    looks = {begun: begun.see(batch) for begun in dict.fromkeys(begun for begun, _ in ways)}
    after = [model.see(batch) for _, model in ways]
    phi = torch.stack([look.phi for look in after])
    biased = ways[0][1].biased
    norms = torch.stack([log_norms(look.errors, look.features, biased) for look in after])
    angles = torch.empty(phi.shape, dtype=torch.float64)
    for begun, look in looks.items():
        places = [place for place, (origin, _) in enumerate(ways) if origin is begun]
        targets = [ways[place][1] for place in places]
        angles[places] = _angles(begun, look, targets, batch, layers)
    return torch.stack([phi, norms.float(), angles.float()])


def _name(
    signals: Float[Tensor, "signals *values models examples"], uploads: int
) -> dict[str, Tensor]:
    """Signals by name: those of uploads, of the new weights, and of these without a client."""
    named: dict[str, Tensor] = {}
    for name, signal in zip(SIGNALS, signals, strict=True):
        new, *others = signal[..., uploads:, :].unbind(-2)
        named |= {name: signal[..., :uploads, :], f"global_{name}": new}
        named |= {f"others_{name}": other for other in others}
    return named


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
