"""Networks by name or import path, built for the classes and the shape of the data."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_modules.architectures import (
    convnet,
    densenet121,
    mlp,
    resnet8,
    resnet18,
    resnet20,
    resnet50,
    wide_resnet28_2,
)
from lightning_modules.logits import take_logits
from quantization.imported import imported

Shape = tuple[int, ...]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "densenet121": densenet121,
    "resnet20": resnet20,
    "resnet8": resnet8,
    "wide_resnet28_2": wide_resnet28_2,
    "convnet": convnet,
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
    if name not in NETWORKS and "." not in name:
        raise ValueError(
            f"Network must be one of {', '.join(NETWORKS)}, or the import path of your own such as"
            f" `package.module.Class`, got `{name}`."
        )
    build = NETWORKS[name] if name in NETWORKS else imported(name, "--model.network")
    signature = inspect.signature(build)
    known = {"num_classes": num_classes, "channels": channels, "shape": shape}
    given = {key: value for key, value in known.items() if key in signature.parameters} | args
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(f"Network `{name}` takes {signature}, got {given}: {error}.") from error
    try:
        network = _construct(build, signature, num_classes, given)
    except Exception as error:  # whatever a user's or a library's constructor raises
        reason = "".join(str(error).splitlines()[:1]).rstrip(".")
        raise ValueError(
            f"Network `{name}` cannot be built with {given}: {type(error).__name__}: {reason}. "
            "Change `--model.network_args`, or the network."
        ) from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise ValueError(f"Network `{name}` must build a torch.nn.Module, got a {kind}.")
    return take_logits(network)


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
