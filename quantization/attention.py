"""Attention that calls a layer for each of its weights, so that they are layers like others."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad, scaled_dot_product_attention

from quantization.calibration import Images
from quantization.operation import LINEAR

Query = Float[Tensor, "batch queries _"]
Key = Float[Tensor, "batch keys _"]  # or value


@contextmanager
def unfused() -> Iterator[list["Multiplied"]]:
    """Let networks call their layers where they would multiply the layers' weights themselves.

    PyTorch's transformer layers do so in fused paths, in evaluation mode; they are off here. Other
    networks, such as torchvision's Swin, pass a layer's weight to `functional.linear`.

    Yields:
        A list: `functional.linear` with the weight of a layer in it calls that layer.
    """
    layers: list[Multiplied] = []

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer = next((layer for layer in layers if layer.weight is weight), None)
        return before(input, weight, bias) if layer is None else layer.with_bias(input, bias)

    before, fused = functional.linear, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    functional.linear = linear
    try:
        yield layers
    finally:
        functional.linear = before
        torch.backends.mha.set_fastpath_enabled(fused)


class Multiplied(nn.Linear):
    """A linear layer whose weight its network passes to `functional.linear`."""

    @classmethod
    def of(cls, layer: nn.Linear) -> "Multiplied":
        """Make `layer` one, in place."""
        layer.__class__ = cls
        return cast(Multiplied, layer)

    def forward(self, input: Tensor) -> Tensor:
        return LINEAR(input, self.weight, self.bias)

    def with_bias(self, inputs: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output, but with a bias that need not be its own."""
        outputs: Tensor = self(inputs)
        if bias is self.bias:
            return outputs
        outputs = outputs if self.bias is None else outputs - self.bias
        return outputs if bias is None else outputs + bias


def projections(attention: nn.MultiheadAttention) -> list[str]:
    """Names of the layers that `write_out` gives an attention; `NAME_weight` is their parameter."""
    names = ("in_proj", "q_proj", "k_proj", "v_proj")
    return [name for name in names if getattr(attention, f"{name}_weight") is not None]


def write_out(network: nn.Module, images: Images | None = None) -> None:
    """Give every attention of a network layers that multiply its inputs, in place.

    They share the attention's own parameters. `in_proj` is a linear layer where query, key and
    value are always the same tensor, and otherwise a convolution with a group for each of them.

    Args:
        network: a copy in evaluation mode; it computes the same logits as before.
        images: images on which to find out; None if it does not matter.
    """
    attentions = [m for m in network.modules() if isinstance(m, nn.MultiheadAttention)]
    for attention in attentions:
        own = type(attention)
        bases = (WrittenOut,) if own is nn.MultiheadAttention else (own, WrittenOut)
        attention.__class__ = type(own.__name__, bases, {"apart": False, "written": False})
    if attentions and images is not None:
        with unfused(), torch.no_grad():
            network(images.clone())
    for attention in cast(list[WrittenOut], attentions):
        attention.add_layers()


class WrittenOut(nn.MultiheadAttention):
    """Attention that calls a layer for each of its weights; see `write_out`.

    Attributes:
        apart: whether a call had a query, key and value that were not the same tensor.
        written: whether the layers are there.
    """

    apart: bool
    written: bool

    def add_layers(self) -> None:
        """Add the layers named by `projections`."""
        self.written = True
        bias = self.in_proj_bias
        for number, name in enumerate(projections(self)):
            weight = self.get_parameter(f"{name}_weight")
            if name != "in_proj":
                part = None if bias is None else nn.Parameter(bias.chunk(3)[number], False)
                self.add_module(name, _linear(weight, part))
            elif self.apart:
                self.add_module(name, _grouped(weight))
            else:
                self.add_module(name, _linear(weight, bias))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what `nn.MultiheadAttention` does; inputs without a batch axis are left to it."""
        self.apart |= not (query is key is value)
        if not self.written or query.ndim != 3:
            options = key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            return super().forward(query, key, value, *options)
        if not self.batch_first:
            same = query is key is value
            query = query.transpose(0, 1)
            key, value = (query, query) if same else (key.transpose(0, 1), value.transpose(0, 1))
        q, k, v = self._project(query, key, value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        shape = len(q), -1, self.num_heads, self.head_dim
        q, k, v = (x.reshape(shape).transpose(1, 2) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (pad(x, (0, 0, 0, 1)) for x in (k, v))
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        weights = None
        if need_weights:
            scores = q / math.sqrt(q.shape[-1]) @ k.mT
            weights = (scores if mask is None else scores + mask).softmax(-1)
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            heads = scaled_dot_product_attention(q, k, v, mask)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), weights

    def _project(self, query: Query, key: Key, value: Key) -> tuple[Query, Key, Key]:
        if self.in_proj_weight is None:
            layers = (self.get_submodule(f"{name}_proj") for name in "qkv")
            q, k, v = (layer(x) for layer, x in zip(layers, (query, key, value), strict=True))
            return q, k, v
        if not self.apart:
            q, k, v = self.get_submodule("in_proj")(query).chunk(3, -1)
            return q, k, v
        # padded tokens are zero, and add nothing to sums over inputs
        longest = max(query.shape[1], key.shape[1])
        tokens = [pad(x, (0, 0, 0, longest - x.shape[1])) for x in (query, key, value)]
        projected = self.get_submodule("in_proj")(torch.cat(tokens, -1).mT).mT
        if self.in_proj_bias is not None:
            projected = projected + self.in_proj_bias
        q, k, v = projected.chunk(3, -1)
        return q[:, : query.shape[1]], k[:, : key.shape[1]], v[:, : key.shape[1]]

    def _mask(
        self, attention: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """What to add to scores [batch, heads, queries, keys]."""
        total = None
        if attention is not None and attention.ndim == 3:
            attention = attention.reshape(-1, self.num_heads, *attention.shape[1:])
        for mask in (attention, None if padding is None else padding[:, None, None]):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(
                    mask, -math.inf
                )
            mask = pad(mask, (0, k.shape[2] - mask.shape[-1]))  # the keys that options add
            total = mask if total is None else total + mask
        return total


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    return layer.eval()


def _grouped(weight: nn.Parameter) -> nn.Conv1d:
    """A layer whose rows are those of `weight`, a third each for query, key and value."""
    rows, columns = weight.shape
    layer = nn.Conv1d(3 * columns, rows, 1, groups=3, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach()[..., None], requires_grad=False)
    return layer.eval()
