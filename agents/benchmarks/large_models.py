"""What one step of the environment costs on a large model, by arithmetic: no model is loaded, nothing is measured.

FLOPs count a multiply-add as two. Seconds are of a roofline: each part takes the longer of its FLOPs at the sustained rate and of
its bytes at the bandwidth, over all devices that one copy of the model is spread over. Work that hides behind other work is not
hidden here, and nothing waits for anything, so that a real step can be slower than this, and some of its parts faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from plasticity_env.common.arguments import check_counts
from plasticity_env.common.errors import InputError
from plasticity_env.common.values import check_number

GIB = 2.0**30
COLUMNS = 61  # numbers that an observation says of a unit


@dataclass(frozen=True)
class LargeModelConfig:
    """A model, what a step reads, and the machines; the default is a model of 70 billion parameters on eight GPUs."""

    layers: int = 80
    """transformer layers"""
    width: int = 8192
    """E, width of the residual stream"""
    heads: int = 64
    """query heads a layer"""
    kv_heads: int = 8
    """key and value heads a layer"""
    head_dim: int = 128
    """width of a head"""
    neurons: int = 28672
    """neurons of a gated MLP"""
    mlp_blocks: int = 64
    """units into which they are cut"""
    vocabulary: int = 128256
    """tokens that the output tells apart"""
    tokens: int = 2048
    """tokens of a block of text"""
    calibration_blocks: int = 16
    """blocks that slopes of the gates are taken on: forward and backward, without gradients of weights"""
    moment_blocks: int = 64
    """blocks that moments are gathered on, once a text: forward"""
    reward_blocks: int = 16
    """blocks that the reward reads: forward"""
    devices: int = 8
    """GPUs that one copy of the model is spread over by tensor parallelism"""
    teraflops: float = 990.0
    """peak of one GPU in bfloat16"""
    efficiency: float = 0.4
    """share of it that matrix products sustain"""
    solve_teraflops: float = 20.0
    """what one GPU sustains in the solves of repair and elimination, in float32"""
    terabytes: float = 3.3
    """memory bandwidth of one GPU, TB a second"""
    link_gigabytes: float = 450.0
    """bandwidth between the GPUs of one copy, GB a second and GPU"""
    gpus: int = 1000
    """GPUs on which a controller is trained"""
    decisions: int = 100_000
    """steps of environments in its training"""

    def __post_init__(self) -> None:
        counts = (
            "layers",
            "width",
            "heads",
            "kv_heads",
            "head_dim",
            "neurons",
            "vocabulary",
            "tokens",
            "devices",
            "gpus",
        )
        check_counts(self, **dict.fromkeys(counts, 1), mlp_blocks=0, decisions=1)
        check_counts(self, calibration_blocks=1, moment_blocks=0, reward_blocks=1)
        for name in ("teraflops", "solve_teraflops", "terabytes", "link_gigabytes"):
            check_number(name, getattr(self, name), 0, 1e9, above=True)
        check_number("efficiency", self.efficiency, 0, 1, above=True)
        if self.heads % self.kv_heads:
            raise InputError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.gpus < self.devices:
            raise InputError(f"gpus {self.gpus} is fewer than the {self.devices} devices of one copy of the model")


@dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes:
        name: What it does.
        flops: FLOPs of all devices together.
        gib: What has to be held for it, all devices together.
        seconds: Seconds by the roofline.
    """

    name: str
    flops: float
    gib: float
    seconds: float


def weights(config: LargeModelConfig) -> float:
    """Parameters in matrices; input embedding, biases and norms are left out."""
    c = config
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return float(c.layers * (attention + 3 * c.width * c.neurons) + c.width * c.vocabulary)


def forward_flops(config: LargeModelConfig) -> float:
    """FLOPs of one token in a forward; attention counts the full T x T, as the environment's own FLOPs do."""
    return 2.0 * weights(config) + config.layers * config.heads * 4.0 * config.tokens * config.head_dim


def site_widths(config: LargeModelConfig) -> list[int]:
    """Inputs of the projections of one layer that units write through."""
    attention = config.heads * config.head_dim
    return [attention, config.neurons] if config.mlp_blocks else [attention]


def moment_bytes(config: LargeModelConfig) -> float:
    """Second moments of all sites in float32, d^2 a site: what repair keeps of a text."""
    return 4.0 * config.layers * sum(width**2 for width in site_widths(config))


def parts(config: LargeModelConfig) -> list[Part]:
    """The parts of a step with least-squares repair, and before them what is done once a text."""
    c = config
    rate, bandwidth = c.devices * c.teraflops * 1e12 * c.efficiency, c.devices * c.terabytes * 1e12
    solving = c.devices * c.solve_teraflops * 1e12
    forward, held, squares = forward_flops(c), 2.0 * weights(c), sum(width**2 for width in site_widths(c))

    def passes(name: str, blocks: int, times: float, extra: float = 0.0) -> Part:
        flops = blocks * c.tokens * (times * forward + extra)
        gathered = (
            blocks * c.tokens * 2.0 * c.layers * sum(site_widths(c)) if extra else 0.0
        )  # activations to all ranks
        travel = gathered / (c.devices * c.link_gigabytes * 1e9)
        return Part(name, flops, held / GIB, max(flops / rate, times * held / bandwidth) + travel)

    moments = passes(f"moments of {c.moment_blocks} blocks", c.moment_blocks, 1.0, 2.0 * c.layers * squares)
    slopes = passes(f"slopes of {c.calibration_blocks} blocks", c.calibration_blocks, 2.0)  # no gradient of weights
    # Cholesky factorisation, then two triangular substitutions for E outputs
    repair = c.layers * sum(width**3 / 3 + 2.0 * width**2 * c.width for width in site_widths(c))
    read = 2 * moment_bytes(c) / bandwidth
    return [
        Part("once a text: " + moments.name, moments.flops, (held + moment_bytes(c)) / GIB, moments.seconds),
        slopes,
        Part("repair of every layer", repair, moment_bytes(c) / GIB, max(repair / solving, read)),
        passes(f"reward on {c.reward_blocks} blocks", c.reward_blocks, 1.0),
    ]


def table(config: LargeModelConfig) -> list[str]:
    """Lines of Markdown: parts of a step, what travels, and what training a controller takes."""
    c, found = config, parts(config)
    units = c.layers * (c.heads + c.mlp_blocks)
    step = sum(part.seconds for part in found[1:])
    copies = c.gpus // c.devices
    hours = c.decisions * step / copies / 3600
    moments, of_heads = moment_bytes(c) / GIB, 4.0 * c.layers * site_widths(c)[0] ** 2 / GIB
    action, observation = units / 1024, 4 * units * COLUMNS / 2**20
    lines = [
        f"{weights(c) / 1e9:.1f} billion weights in matrices, {units:,} units, {c.devices} GPUs a copy",
        "",
        "| part | PFLOP | GiB held | seconds |",
        "|---|---:|---:|---:|",
        *(f"| {part.name} | {part.flops / 1e15:,.1f} | {part.gib:,.0f} | {part.seconds:.2f} |" for part in found),
        f"| a step | {sum(part.flops for part in found[1:]) / 1e15:,.1f} | | {step:.2f} |",
        "",
        f"- Gates: {4 * units / 1024:.0f} KiB, of which each GPU needs the part of its own heads and neurons.",
        f"- An action: {action:.1f} KiB to the model; an observation: {observation:.1f} MiB to the controller. "
        "Weights never travel.",
        f"- Moments: {moments:,.0f} GiB, {moments / c.devices:,.0f} GiB a GPU where rows are dealt out; "
        f"heads alone {of_heads:,.0f} GiB.",
        f"- {c.decisions:,} decisions on {c.gpus:,} GPUs ({copies} copies): {hours:.1f} hours, "
        f"{hours * copies * c.devices:,.0f} GPU-hours.",
    ]
    return lines
