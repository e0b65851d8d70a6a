"""Networks by name or import path, built for the classes and the shape of the data."""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from lightning_modules.architectures import (
    convnet,
    convnet_gn,
    densenet121,
    mlp,
    resnet8,
    resnet8_gn,
    resnet18,
    resnet20,
    resnet50,
    wide_resnet28_2,
)
from lightning_modules.logits import take_logits
from quantization.imported import imported, is_own

Shape = tuple[int, ...]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "resnet20": resnet20,
    "resnet8": resnet8,
    "resnet8_gn": resnet8_gn,
    "wide_resnet28_2": wide_resnet28_2,
    "convnet": convnet,
    "convnet_gn": convnet_gn,
    "mlp": mlp,
}


def build_network(
    name: str,
    num_classes: int,
    channels: int,
    args: dict[str, Any],
    shape: Shape | None = None,
) -> nn.Module:
    """Build one of our networks or the user's own.

    What is known of the data is passed on if the signature names it; `num_classes` also to builders
    that take `**kwargs`, as those of torchvision and timm do.

    Args:
        name: a key of `NETWORKS`, or the import path of a class or function, such as
            `torchvision.models.vgg.vgg11_bn`.
        num_classes: number of classes.
        channels: number of channels of the images.
        args: further arguments by name, which override what is known of the data.
        shape: shape of one example, such as (channels, height, width).

    Returns:
        The network, with freshly drawn weights; it returns logits, see `take_logits`.

    Raises:
        ValueError: the name is unknown or cannot be imported, the arguments do not fit its
            signature, it raises an error, or what it builds is not an `nn.Module`.
    """
    build = _find(name)
    signature = inspect.signature(build)
    known: dict[str, object] = {"num_classes": num_classes, "channels": channels}
    known |= {} if shape is None else {"shape": shape}
    given = {key: value for key, value in known.items() if key in signature.parameters} | args
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(f"Network `{name}` takes {signature}, got {given}: {error}.") from error
    try:
        network = _construct(build, signature, num_classes, given)
    except (Exception, SystemExit) as error:  # whatever a user's or a library's constructor raises
        reason = "".join(str(error).splitlines()[:1]).rstrip(".")
        raise ValueError(
            f"Network `{name}` cannot be built with {given}: {type(error).__name__}: {reason}. "
            "Change `--model.network_args`, or the network."
        ) from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"Network `{name}` must build a torch.nn.Module, got a {kind}.")
    network = _plain(network)
    _refuse_scripted(name, network)
    return take_logits(network)


def _find(name: str) -> Callable[..., Any]:
    """The builder of a network by its name or import path."""
    if name in NETWORKS:
        return NETWORKS[name]
    if not is_own(name):
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise ValueError(
            f"Network must be one of {', '.join(NETWORKS)}, or the import path of your own such as"
            f" `package.module.Class`, got `{name}`.{hint}"
        )
    return imported(name, "--model.network")


def _plain(network: nn.Module) -> nn.Module:
    """A network without the wrappers of `torch.compile`, which would compile our hooks, too."""
    wrapped = getattr(network, "_orig_mod", None)
    if isinstance(wrapped, nn.Module):
        return _plain(wrapped)
    for key, child in list(network.named_children()):
        if (plain := _plain(child)) is not child:
            setattr(network, key, plain)
    return network


def _refuse_scripted(name: str, network: nn.Module) -> None:
    kinds = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
    if scripted := [key for key, module in network.named_modules() if isinstance(module, kinds)]:
        where = f"in {', '.join(filter(None, scripted))}" if scripted[0] else "as a whole"
        raise ValueError(
            f"Network `{name}` must consist of plain modules, which can be copied and looked into, "
            f"got one compiled by `torch.jit` {where}. Build it without `torch.jit`; "
            "`--model.compile true` compiles it for training."
        )


def _construct(
    build: Callable[..., Any], signature: inspect.Signature, num_classes: int, given: dict[str, Any]
) -> object:
    """Call a builder; if it takes `**kwargs`, with `num_classes` unless that is refused."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds or "num_classes" in given:
        return build(**given)
    try:
        return build(**given, num_classes=num_classes)
    except TypeError as error:
        if "'num_classes'" not in str(error):
            raise
        return build(**given)
