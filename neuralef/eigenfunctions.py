r"""psi, the network whose K outputs are trained to be the kernel's principal eigenfunctions (paper, 3.4 and 3.5).

Two transformer blocks with linear attention read all patches of one image; a linear head with orthogonal rows gives K
numbers per patch. While training, these logits pass a Gumbel-Softmax (3.5) and then an L2 batch norm, which keeps
:math:`E[\psi \circ \psi] = 1` (Eq. 5). Afterwards both are taken away: the logits themselves are up-sampled and their
argmax is the cluster.

What the paper leaves open is by default that of the official code: attention by softmax, an MLP of 576 hidden channels
beside 1,152, and a bias for each logit. That code keeps the 576, and 18 heads, for wider backbones as well, where here
both grow with them; its initial weights deviate by 0.02 in every layer, here by one over the root of a layer's inputs.

References:
    Deng et al., *NeuralEF: Deconstructing Kernels by Deep Neural Networks*, arXiv:2205.00165 (L2 batch norm).
    Shen et al., *Efficient Attention: Attention with Linear Complexities*, arXiv:1812.01243 (attention by softmax).
    Katharopoulos et al., *Transformers are RNNs*, arXiv:2006.16236 (attention by elu + 1).
    Jang et al., *Categorical Reparameterization with Gumbel-Softmax*, arXiv:1611.01144.
"""

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neuralef.config import Attention, Config
from neuralef.errors import InputError

HEAD_CHANNELS = 64
"""Channels of one attention head, as in every ViT of the paper, where they divide the width."""


class Standardise(nn.Module):
    """Every channel to zero mean and unit variance; a channel that never varies becomes 0.

    Levels of a backbone differ in scale, and the mean takes a share of each: for ``vit_small_patch14_saliency`` on the
    training photographs of Stanford Background their root mean squares are 0.08, 0.06 and 1.00, and 32, 18 and 24 % of
    the energy is the mean (from ``FeatureStore.channel_statistics``). The paper has no such step and trains for longer.

    Args:
        mean: Mean of every channel, shape ``(C,)``.
        deviation: Standard deviation of every channel, shape ``(C,)``.
    """

    def __init__(self, mean: Tensor, deviation: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(deviation > 0, 1 / deviation, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``(..., C)``, to the same shape."""
        return (x - self.mean) * self.scale


class PositiveFeatures(torch.autograd.Function):
    r""":math:`\phi(x) = \mathrm{elu}(x) + 1` and its gradient, in the fewest passes over memory.

    :math:`e^{\min(x, 0)}` is both the part of :math:`\phi` below 0 and the whole derivative, 1 above 0. With torch's
    own elu, linear attention takes twice as long forward and backward in bfloat16 (``benchmarks/README.md``).
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """Features of a tensor of any shape, of the same shape."""
        slope = x.clamp_max(0).exp()
        ctx.save_for_backward(slope)
        return slope + x.relu()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """Gradient of the input: that of the output times the slope."""
        (slope,) = ctx.saved_tensors
        return gradient * slope


def attention_heads(width: int) -> int:
    """Number of attention heads of so many channels: one for every :data:`HEAD_CHANNELS`, or the next fewer."""
    return next(heads for heads in range(max(1, width // HEAD_CHANNELS), 0, -1) if width % heads == 0)


class LinearAttention(nn.Module):
    r"""Multi-head attention of T patches by C channels in O(T C^2 / heads) instead of O(T^2 C).

    Patch t takes :math:`\sum_s w_{ts} v_s`, with weights of one of two kinds, c being the channels of a head:

    * ``softmax``, as in the official code (Shen et al.): :math:`w_{ts} = c^{-1/2} \rho(q_t)^\top \sigma(k)_s` with
      :math:`\rho` a softmax over channels and :math:`\sigma` one over patches; they sum to :math:`c^{-1/2}` over s, and
      queries, keys and values have no bias.
    * ``elu`` (Katharopoulos et al.): :math:`w_{ts}` is :math:`\phi(q_t)^\top \phi(k_s)` normalised over s, with
      :math:`\phi = \mathrm{elu} + 1`.
    """

    def __init__(self, channels: int, kind: Attention):
        super().__init__()
        self.kind = kind
        self.heads = attention_heads(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=kind == "elu")
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each image: ``(images, T, C)`` to the same shape."""
        # (3, images, heads, T, c); strided, everything below would take twice as long
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        if self.kind == "softmax":
            q, k, v = qkv
            context = k.softmax(dim=-2).transpose(-1, -2) @ v  # (images, heads, c, c)
            attended = q.softmax(dim=-1) @ context * q.shape[-1] ** -0.5
        else:
            (q, k), v = PositiveFeatures.apply(qkv[:2]), qkv[2]
            context = k.transpose(-1, -2) @ v
            weight = q @ k.sum(dim=-2).unsqueeze(-1)  # (images, heads, T, 1)
            attended = q @ context / weight
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with linear attention."""

    def __init__(self, channels: int, attention: Attention, mlp_ratio: float):
        super().__init__()
        hidden = int(channels * mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = LinearAttention(channels, attention)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(images, T, C)`` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class OrthonormalRows(nn.Module):
    """The orthonormal rows that Gram-Schmidt makes of a matrix, by a QR decomposition.

    ``torch.nn.utils.parametrizations.orthogonal`` gives the same set of matrices at a cost, in its backward pass, of a
    fifth of a training step.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """``(K, C)`` of full rank, ``K <= C``, to the same shape."""
        q, r = torch.linalg.qr(weight.T)
        return (q * r.diagonal().sign()).T


class Eigenfunctions(nn.Module):
    """psi: all levels of a backbone in, K eigenfunctions out.

    Args:
        in_channels: Channels of all levels together, the paper's 3C.
        num_eigenfunctions: Number of eigenfunctions and of clusters, the paper's K.
        width: Channels of the blocks; ``None`` keeps ``in_channels`` (the paper), any other value puts a linear
            projection in front.
        depth: Number of blocks.
        attention: Kind of linear attention.
        mlp_ratio: Hidden channels of a block's MLP over its width.
        head_bias: Whether the head adds a number of its own to each of the K logits.
        input_statistics: Mean and standard deviation of every input channel, each of shape ``(in_channels,)``, to
            standardise the inputs by; ``None`` takes them as they are (the paper).
        generator: Source of the initial weights.

    Raises:
        InputError: As :func:`check_width`.
    """

    def __init__(
        self,
        in_channels: int,
        num_eigenfunctions: int,
        *,
        width: int | None = None,
        depth: int = 2,
        attention: Attention = "softmax",
        mlp_ratio: float = 0.5,
        head_bias: bool = True,
        input_statistics: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator,
    ):
        super().__init__()
        width = width or in_channels
        check_width(width, num_eigenfunctions, mlp_ratio)
        self.standardise = nn.Identity() if input_statistics is None else Standardise(*input_statistics)
        self.projection = nn.Identity() if width == in_channels else nn.Linear(in_channels, width)
        self.blocks = nn.Sequential(*(Block(width, attention, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_eigenfunctions, bias=head_bias)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        parametrize.register_parametrization(self.head, "weight", OrthonormalRows())

    @classmethod
    def of(
        cls,
        config: Config,
        in_channels: int,
        num_eigenfunctions: int,
        *,
        seed: int,
        input_statistics: tuple[Tensor, Tensor] | None = None,
    ) -> Self:
        """psi of the shape that a configuration gives it, with the initial weights that ``seed`` determines.

        Args:
            config: Configuration, of which the fields of psi are read, ``standardise_inputs`` aside.
            in_channels: As for the class, and so are the others.
            num_eigenfunctions: Number of eigenfunctions, the paper's K.
            seed: Seed of the initial weights.
            input_statistics: Mean and standard deviation of every input channel, each ``(in_channels,)``, or ``None``.

        Raises:
            InputError: As the class.
        """
        return cls(
            in_channels,
            num_eigenfunctions,
            width=config.width,
            depth=config.depth,
            attention=config.attention,
            mlp_ratio=config.mlp_ratio,
            head_bias=config.head_bias,
            input_statistics=input_statistics,
            generator=torch.Generator().manual_seed(seed),
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.norm.weight.device

    def hidden(self, features: Tensor) -> Tensor:
        """What feeds the head (and what "Ours*" clusters): ``(images, T, 3C)`` to ``(images, T, width)``.

        The features may lie on another device; the result is on psi's.
        """
        return self.norm(self.blocks(self.projection(self.standardise(features.to(self.device)))))

    def forward(self, features: Tensor) -> Tensor:
        """Logits, before quantisation and normalisation: ``(images, T, 3C)`` to ``(images, T, K)``."""
        return self.head(self.hidden(features))


def check_width(width: int, num_eigenfunctions: int, mlp_ratio: float) -> None:
    """Raise ``InputError`` if blocks of ``width`` channels cannot carry K orthogonal rows, or have an empty MLP."""
    if num_eigenfunctions > width:
        raise InputError(
            f"{num_eigenfunctions} clusters need a psi at least as wide, and its width is {width}; raise width, or "
            "lower the number of clusters"
        )
    if int(width * mlp_ratio) < 1:
        raise InputError(f"mlp_ratio is {mlp_ratio}, which leaves no hidden channel of {width}; raise it")


def gumbel_softmax(logits: Tensor, *, temperature: float, generator: torch.Generator) -> Tensor:
    """Soft Gumbel-Softmax with an explicit source of noise (3.5): ``(..., K)`` to rows that sum to 1.

    ``torch.nn.functional.gumbel_softmax`` takes no generator, which a reproducible, resumable run needs.
    """
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return ((logits + noise) / temperature).softmax(dim=-1)


def l2_batch_norm(psi: Tensor) -> Tensor:
    r"""Scale each column to unit second moment over the batch, the constraint of Eq. 5.

    A column norm below 1 is taken as 1 (official code): a cluster that no patch chooses is not blown up to unit moment.

    Args:
        psi: Values of the eigenfunctions on the batch, shape ``(B, K)``.

    Returns:
        Scaled values, shape ``(B, K)``, with :math:`\frac{1}{B}\sum_u \psi_j(u)^2 = 1` for every column whose norm was
        at least 1.
    """
    return psi * (math.sqrt(psi.shape[0]) / psi.norm(dim=0, keepdim=True).clamp_min(1.0))
