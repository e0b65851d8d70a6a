"""Groups of channels that can only be removed together, found by Torch-Pruning's dependency graph.

A channel of a group is everything that a convolution's output channel takes with it: its filter,
its normalisation, and the weights by which later layers read it; in a residual network also the
same channel of every branch that is added to it. A grouped convolution and GroupNorm need as many
channels in each of their sub-groups, so there a channel stands for one of each sub-group.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import lcm
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

Role = Literal["weight", "scale", "other"]
Kept = dict[str, list[int]]  # channels that are kept, by the name of their group
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm)


class Slice(NamedTuple):
    """The part of one tensor that belongs to the channels of a group.

    Attributes:
        key: the tensor's key in the state dict.
        axis: axis that the channels lie along.
        positions: positions of each channel along this axis.
        role: weight of a layer, scale of a normalisation, or anything else, such as a bias.
    """

    key: str
    axis: int
    positions: Int[Tensor, "channels width"]
    role: Role


class Group(NamedTuple):
    """Channels of which each can be removed.

    Attributes:
        name: the first layer, in the network's order, whose outputs they are.
        slices: their parts of all tensors.
    """

    name: str
    slices: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.slices[0].positions)


class _Item(NamedTuple):
    """A layer of a group, as Torch-Pruning gives it."""

    name: str
    module: nn.Module
    reads: bool  # the channels are inputs of this layer, which has outputs of its own
    indices: Sequence[int]  # along its inputs or outputs
    roots: Sequence[int]  # the channel of the group to which each of them belongs


def find_groups(
    network: nn.Module, images: Float[Tensor, "batch ..."]
) -> tuple[list[Group], list[str]]:
    """Find the groups of a network, apart from its logits and from its inputs.

    Args:
        network: the network, which is not changed.
        images: some inputs; only their shape matters.

    Returns:
        The groups in the network's order, and names of the layers whose outputs stay as they are,
        because their channels run through something that cannot be narrowed here.

    Raises:
        ValueError: Torch-Pruning cannot trace the network.
    """
    traced = copy.deepcopy(network).cpu().float().eval()
    order = {key: number for number, key in enumerate(traced.state_dict())}
    tied = _tied(traced)
    groups, left = [], []
    for items, reaches_logits in _trace(traced, images):
        producers = [item.name for item in items if not item.reads and _is_layer(item.module)]
        name = min(producers, key=lambda name: order.get(f"{name}.weight", len(order)))
        slices = [] if reaches_logits else _slices(items)
        if slices and not tied.intersection(piece.key for piece in slices):
            groups.append(Group(name, tuple(sorted(slices, key=lambda piece: order[piece.key]))))
        elif not reaches_logits:
            left.append(name)
    return sorted(groups, key=lambda group: order[f"{group.name}.weight"]), sorted(left)


def _trace(network: nn.Module, images: Tensor) -> Iterator[tuple[list[_Item], bool]]:
    """The layers of each group, and whether its channels are the network's outputs."""
    from torch_pruning import DependencyGraph  # an extra

    try:
        with torch.enable_grad():
            graph = DependencyGraph().build_dependency(network, images.cpu().float(), verbose=False)
            found = list(graph.get_all_groups())
    except Exception as error:  # whatever an untyped tracer raises
        raise ValueError(
            f"Torch-Pruning cannot trace {type(network).__name__}: {type(error).__name__}: "
            f"{' '.join(str(error).split())}. Train it without `--prune`, or simplify its "
            "`forward`."
        ) from error
    names = {module: name for name, module in network.named_modules()}
    for group in found:
        items, reaches = [], False
        for item in group:
            target, module = item.dep.target, item.dep.target.module
            reads = item.dep.handler.__name__ == "prune_in_channels"
            reaches |= not target.outputs and not reads
            if isinstance(module, nn.Parameter) or module in names:
                name = names.get(module, "") if isinstance(module, nn.Module) else ""
                items.append(_Item(name, module, reads, item.idxs, item.root_idxs))
        yield items, reaches


def _slices(items: Sequence[_Item]) -> list[Slice]:
    """The parts of all tensors; none if a layer cannot be narrowed here."""
    size, parts = 1 + max(items[0].roots), 1
    for item in items:
        if not _is_known(item.module):
            return []
        if (several := _sub_groups(item)) > 1:
            if list(item.indices) != list(range(size)) or list(item.roots) != list(item.indices):
                return []  # some channels of a sub-group are those of another group
            parts = lcm(parts, several)
    if size % parts or size == parts:
        return []
    slices = []
    for item in items:
        for key, axis, period, role in _tensors(item):
            by_channel = defaultdict(set)
            for index, root in zip(item.indices, item.roots, strict=True):
                by_channel[root % (size // parts)].add(index % period if period else index)
            rows = [sorted(by_channel[channel]) for channel in range(size // parts)]
            if len({len(row) for row in rows}) != 1 or not rows[0]:
                return []
            slices.append(Slice(f"{item.name}.{key}", axis, torch.tensor(rows), role))
    return slices


def _tensors(item: _Item) -> Iterator[tuple[str, int, int, Role]]:
    """Tensors of a layer that lie along its channels: key, axis, period of the axis (0: none)."""
    module = item.module
    if isinstance(module, _ConvNd):
        transposed, groups = isinstance(module, _ConvTransposeNd), module.groups
        across = item.reads != transposed  # along the axis that has one sub-group's channels
        if is_depthwise(module):
            across, groups = False, 1
        count = module.in_channels if item.reads else module.out_channels
        yield "weight", int(across), count // groups if across and groups > 1 else 0, "weight"
    elif isinstance(module, nn.Linear):
        yield "weight", int(item.reads), 0, "weight"
    own = {**module._parameters, **module._buffers}
    for key, tensor in own.items():
        if tensor is None or tensor.ndim != 1 or item.reads:
            continue
        if not isinstance(module, nn.PReLU) or len(tensor) > 1:
            scale = isinstance(module, NORMS) and key == "weight"
            yield key, 0, 0, "scale" if scale else "other"


def _is_known(module: object) -> bool:
    """Whether a layer can be narrowed: its tensors, and the attributes that hold its widths."""
    if isinstance(module, _ConvNd):
        one_to_one = module.in_channels == module.out_channels
        # A depthwise convolution may be cut where each input has one output. One with more
        # outputs than inputs is treated as grouped; Torch-Pruning mistraces one with fewer.
        return _has_weight(module) and (module.groups != module.out_channels or one_to_one)
    if isinstance(module, nn.Linear):
        return _has_weight(module)
    if isinstance(module, _BatchNorm | _InstanceNorm):
        return module.affine or module.track_running_stats  # else no tensor tells its width
    if isinstance(module, nn.GroupNorm | nn.PReLU):
        return True
    return isinstance(module, nn.Module) and not (module._parameters or module._buffers)


def _has_weight(module: nn.Module) -> bool:
    """Whether the weight is a plain parameter; `weight_norm` and its like compute it."""
    return set(module._parameters) <= {"weight", "bias"} and "weight" in module._parameters


def _is_layer(module: object) -> bool:
    return isinstance(module, _ConvNd | nn.Linear)


def _sub_groups(item: _Item) -> int:
    module = item.module
    if isinstance(module, _ConvNd):
        return 1 if is_depthwise(module) else module.groups
    return module.num_groups if isinstance(module, nn.GroupNorm) else 1


def is_depthwise(module: _ConvNd) -> bool:
    """Whether each output channel of a convolution sees one input channel, its own."""
    return module.groups == module.in_channels == module.out_channels and module.groups > 1


def _tied(network: nn.Module) -> set[str]:
    """Keys of parameters that several layers share."""
    named: list[tuple[str, Any]] = list(network.named_parameters(remove_duplicate=False))
    uses = Counter(id(parameter) for _, parameter in named)
    return {key for key, parameter in named if uses[id(parameter)] > 1}
