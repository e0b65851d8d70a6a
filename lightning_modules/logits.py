"""What a network returns becomes logits: a tensor as it is, or the `logits` of an output object."""

from collections.abc import Mapping

from torch import Tensor, nn


class OutputError(ValueError):
    """A network returned something that holds no logits, or more than the loss would see."""


def take_logits(network: nn.Module) -> nn.Module:
    """Let a network return its logits alone, whoever calls it, as do its copies.

    Returns:
        The same network, with a hook.
    """
    network.register_forward_hook(_logits_of)
    return network


def _logits_of(network: nn.Module, args: object, output: object) -> Tensor:
    """The logits in the output of a network.

    Raises:
        OutputError: there are none, or in training auxiliary heads return some, too.
    """
    if isinstance(output, Tensor):
        return output
    fields = _fields(output)
    name, returned = type(network).__name__, describe(output)
    logits = fields.get("logits")
    if not isinstance(logits, Tensor):
        hint = " Does its `forward` lack a `return`?" if output is None else ""
        mode = "training" if network.training else "evaluation"
        raise OutputError(
            f"{name} must return a tensor of logits, or an object or a dictionary with `logits`, "
            f"got {returned} in {mode} mode.{hint} Wrap it in a module whose `forward` returns the "
            "logits alone; heads that only exist in training may have an option, such as "
            "`--model.network_args '{\"aux_logits\": false}'`."
        )
    heads = [key for key, value in fields.items() if _is_head(key) and isinstance(value, Tensor)]
    if heads and network.training:
        raise OutputError(
            f"{name} returns {returned} in training mode: the loss is that of `logits`, so that "
            f"{', '.join(heads)} would not be trained. Switch such heads off, for example by "
            "`--model.network_args '{\"aux_logits\": false}'`, or return the logits alone."
        )
    return logits


def describe(output: object) -> str:
    """An output in words: its type, and its fields or the types of its items."""
    kind = type(output).__name__
    if output is None:
        return "None"
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if fields := _fields(output):
        return f"`{kind}` with {', '.join(fields)}"
    if isinstance(output, list | tuple):
        return f"`{kind}` of {', '.join(map(describe, output)) or 'nothing'}"
    return f"`{kind}`"


def _fields(output: object) -> dict[str, object]:
    """The named parts of an output that are not None."""
    if isinstance(output, Mapping):
        fields = dict(output)
    elif isinstance(output, tuple):
        fields = output._asdict() if hasattr(output, "_asdict") else {}
    else:
        attributes = getattr(output, "__dict__", {})
        fields = {key: value for key, value in attributes.items() if not key.startswith("_")}
        if hasattr(output, "logits"):  # it may be a property
            fields["logits"] = output.logits
    return {str(key): value for key, value in fields.items() if value is not None}


def _is_head(field: str) -> bool:
    return field != "logits" and ("logits" in field or field.startswith("aux"))
