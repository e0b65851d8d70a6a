"""The cut: tensors without the channels that are not kept, and layers of the widths that remain."""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer

from pruning.groups import Group, Kept, is_depthwise

Positions = dict[str, dict[int, Tensor]]  # what is kept, by a tensor's key and its axis
Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> Shapes:
    """Shape of each tensor of a network, by its key in the state dict."""
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def widths(network: nn.Module) -> dict[str, int]:
    """Number of outputs of each convolution and linear layer, by its name."""
    layers = {n: m for n, m in network.named_modules() if isinstance(m, _ConvNd | nn.Linear)}
    return {
        name: layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features
        for name, layer in layers.items()
    }


def count_parameters(network: nn.Module) -> int:
    """Number of a network's parameters, those that layers share once."""
    return sum(parameter.numel() for parameter in network.parameters())


def kept_positions(groups: Sequence[Group], kept: Kept, shapes: Shapes) -> Positions:
    """Positions that are kept along each axis of each tensor that loses some.

    Args:
        groups: the groups of the dense network.
        kept: the channels that are kept, for every group.
        shapes: shapes of the dense network's tensors.
    """
    masks: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        removed = torch.ones(group.size, dtype=torch.bool)
        removed[kept[group.name]] = False
        for piece in group.slices:
            place = piece.key, piece.axis
            mask = masks.setdefault(place, torch.ones(shapes[piece.key][piece.axis]).bool())
            mask[piece.positions[removed].flatten()] = False
    positions: Positions = defaultdict(dict)
    for (key, axis), mask in masks.items():
        if not mask.all():
            positions[key][axis] = mask.nonzero().flatten()
    return dict(positions)


def kept_shapes(groups: Sequence[Group], kept: Kept, shapes: Shapes) -> Shapes:
    """Shapes of all tensors after the cut; arguments as in `kept_positions`."""
    positions = kept_positions(groups, kept, shapes)
    return {
        key: tuple(
            len(positions[key][axis]) if axis in positions.get(key, {}) else length
            for axis, length in enumerate(shape)
        )
        for key, shape in shapes.items()
    }


def take(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """The kept positions of a tensor along some of its axes."""
    for axis, positions in axes.items():
        tensor = tensor.index_select(axis, positions.to(tensor.device))
    return tensor


def cut(network: nn.Module, positions: Positions, optimizers: Sequence[Optimizer] = ()) -> None:
    """Remove everything from a dense network that is not kept, in place.

    Args:
        network: the network.
        positions: what is kept.
        optimizers: optimizers of the network's parameters; what they know of a kept weight, such as
            its momentum, goes on with it.
    """
    state, named = network.state_dict(), dict(network.named_parameters())
    axes = {named[key]: axes for key, axes in positions.items() if key in named}
    replaced = _replace(network, {key: take(state[key], axes) for key, axes in positions.items()})
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [replaced.get(weight, weight) for weight in group["params"]]
        for old in replaced.keys() & optimizer.state.keys():
            optimizer.state[replaced[old]] = {
                key: take(value, axes[old]) if getattr(value, "shape", None) == old.shape else value
                for key, value in optimizer.state.pop(old).items()
            }


def load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state into a network, whatever the widths of both.

    Raises:
        RuntimeError: the state is that of another network.
    """
    reshape(network, state)
    network.load_state_dict(state)


def reshape(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the widths of a state, in place, so that it can be loaded.

    The network may be wider or narrower than the state, as a snapshot from before the cut is.
    """
    own = network.state_dict()
    differing = {
        key: tensor
        for key, tensor in state.items()
        if key in own and own[key].shape != tensor.shape and own[key].ndim == tensor.ndim
    }
    _replace(network, differing)


def zeroed(network: nn.Module, groups: Sequence[Group], kept: Kept) -> nn.Module:
    """A dense copy of a network in which everything that a cut would remove is zero."""
    network = copy.deepcopy(network)
    state = network.state_dict()
    with torch.no_grad():
        for key, axes in kept_positions(groups, kept, shapes_of(network)).items():
            for axis, positions in axes.items():
                removed = torch.ones(state[key].shape[axis], dtype=torch.bool)
                removed[positions] = False
                state[key].index_fill_(axis, removed.nonzero().flatten(), 0)
    return network


def _replace(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[nn.Parameter, nn.Parameter]:
    """Put other tensors into a network, and set the widths of their layers."""
    replaced = {}
    modules = dict(network.named_modules())
    for key, tensor in tensors.items():
        owner, _, name = key.rpartition(".")
        module = modules[owner]
        old = module._parameters.get(name)
        if old is None:
            module._buffers[name] = _laid_out(tensor, module.get_buffer(name))
            continue
        new = nn.Parameter(_laid_out(tensor, old), requires_grad=old.requires_grad)
        module._parameters[name], replaced[old] = new, new
    for owner in {key.rpartition(".")[0] for key in tensors}:
        _set_widths(modules[owner])
    return replaced


def _laid_out(tensor: Tensor, old: Tensor) -> Tensor:
    """A copy in the memory format of the old tensor, whose strides follow from its shape alone.

    So a network that was cut and one that was loaded run the same kernels.
    """
    channels_last = old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    new = torch.empty(tensor.shape, dtype=old.dtype, device=old.device, memory_format=layout)
    return new.copy_(tensor.detach())


def _set_widths(module: nn.Module) -> None:
    """Set the attributes that hold a layer's widths to those of its tensors."""
    if isinstance(module, _ConvNd):
        if is_depthwise(module):
            module.groups = len(module.weight)
        first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
        if isinstance(module, _ConvTransposeNd):
            module.in_channels, module.out_channels = first, second
        else:
            module.out_channels, module.in_channels = first, second
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm | _InstanceNorm):
        module.num_features = next(len(t) for t in module.state_dict().values() if t.ndim == 1)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
