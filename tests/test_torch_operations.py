"""Each operation of PyTorch in JAX: its result, and its gradient, beside PyTorch's."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Classifier, interop
from ignpx.interop.aten import ATEN

torch = pytest.importorskip("torch", reason="PyTorch is not installed; CI has it")

import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import torch_models as theirs  # noqa: E402

# Compiles large graphs in half the time.
UNOPTIMISED = {"xla_backend_optimization_level": 0}
unoptimised = jax.jit(Classifier.logits, compiler_options=UNOPTIMISED)


class Each(nn.Module):
    """The results of many operations side by side."""

    def __init__(self, operations):
        super().__init__()
        self.operations = operations
        generator = theirs.generator(0)

        def drawn(*shape):
            return nn.Parameter(torch.randn(*shape, generator=generator).double() / 4)

        self.kernel, self.depthwise, self.row = drawn(6, 4, 3, 3), drawn(4, 1, 3, 3), drawn(6)
        self.grouped, self.wide = drawn(4, 3, 3, 2), drawn(6, 4, 2, 5)
        self.narrow, self.volume = drawn(5, 4, 3), drawn(2, 4, 2, 2, 2)
        self.dense, self.scale, self.shift = drawn(3, 6), drawn(4), drawn(4)
        self.last = drawn(6)
        self.register_buffer("mean", torch.linspace(-1, 1, 4).double())
        self.register_buffer("variance", torch.linspace(0.5, 2, 4).double())

    def forward(self, x):
        return torch.cat(self.results(x), 1)

    def results(self, x):
        made = (operation(self, x) for operation in self.operations.values())
        return [one.flatten(1).to(x.dtype) for one in made]


# Of x, (3, 4, 7, 6): name -> function of the parameters and x.
OPERATIONS = {
    "conv2d": lambda p, x: F.conv2d(x, p.kernel, p.row, (2, 1), (1, 2), (1, 2)),
    "conv2d same": lambda p, x: F.conv2d(x, p.wide, None, 1, "same"),
    "conv2d depthwise": lambda p, x: F.conv2d(x, p.depthwise, p.scale, padding=1, groups=4),
    "conv1d": lambda p, x: F.conv1d(x[:, :, 0], p.narrow, None, 2, 1),
    "conv3d": lambda p, x: F.conv3d(x[:, :, None].expand(-1, -1, 3, -1, -1), p.volume),
    "conv_transpose2d": lambda p, x: F.conv_transpose2d(x, p.kernel.mT[:4], None, 2, 1, 1),
    "conv_transpose2d grouped": lambda p, x: F.conv_transpose2d(
        x, p.grouped, None, (2, 3), 0, (1, 2), 2, (2, 1)
    ),
    "conv_transpose1d": lambda p, x: F.conv_transpose1d(x[:, :, 0], p.narrow[:4], None, 2),
    "conv_transpose3d": lambda p, x: F.conv_transpose3d(x[:, :2, None], p.volume, None, 2),
    "linear": lambda p, x: F.linear(x, p.dense, p.dense[:, 0]),
    "matmul": lambda p, x: x @ p.dense.T,
    "einsum": lambda p, x: torch.einsum("nchw,cd->ndhw", x, p.narrow[0, :, :].T[:, :4].T),
    "addmm without its bias": lambda p, x: torch.addmm(
        torch.full_like(p.dense[:, 0], torch.nan), x[:, 0, 0], p.dense.T, beta=0
    ),
    "addmm": lambda p, x: torch.addmm(p.dense[:, 0], x[:, 0, 0], p.dense.T, beta=2, alpha=0.5),
    "bmm": lambda p, x: torch.bmm(x[:, 0], x[:, 1].mT),
    "mm": lambda p, x: x[:, 0, 0].mm(p.dense.T),
    "baddbmm": lambda p, x: torch.baddbmm(x[:, 0] @ x[:, 1].mT, x[:, 0], x[:, 1].mT, beta=0.5),
    "attention": lambda p, x: F.scaled_dot_product_attention(x, x * 2, x + 1),
    "attention causal": lambda p, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention masked": lambda p, x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=x[:, :1, :, :1] * x[:, :1, :, 0][:, :, None], scale=0.3
    ),
    "attention of nothing": lambda p, x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=(x[:, :, :, :1] > 0).expand(-1, -1, -1, 7)
    ),
    "batch_norm": lambda p, x: F.batch_norm(x, p.mean, p.variance, p.scale, p.shift),
    "layer_norm": lambda p, x: F.layer_norm(x, (6,), p.last, p.row),
    "rms_norm": lambda p, x: F.rms_norm(x, (6,), p.last, 1e-4),
    "group_norm": lambda p, x: F.group_norm(x, 2, p.scale, p.shift),
    "instance_norm": lambda p, x: F.instance_norm(x, weight=p.scale, bias=p.shift),
    "instance_norm running": lambda p, x: F.instance_norm(
        x, p.mean, p.variance, p.scale, p.shift, use_input_stats=False
    ),
    "normalize": lambda p, x: F.normalize(x, dim=1),
    "local_response_norm": lambda p, x: F.local_response_norm(x, 3),
    "max_pool1d": lambda p, x: F.max_pool1d(x[:, 0], 3, 2, 1),
    "max_pool2d": lambda p, x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d up": lambda p, x: F.max_pool2d(x, (2, 4), ceil_mode=True),
    "max_pool3d": lambda p, x: F.max_pool3d(x[:, None], 2),
    "avg_pool1d": lambda p, x: F.avg_pool1d(x[:, 0], 2),
    "avg_pool2d": lambda p, x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d up": lambda p, x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d inside": lambda p, x: F.avg_pool2d(
        x, 3, 2, 1, ceil_mode=True, count_include_pad=False
    ),
    "avg_pool2d divisor": lambda p, x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive_avg_pool2d": lambda p, x: F.adaptive_avg_pool2d(x, (3, None)),
    "adaptive_avg_pool2d one": lambda p, x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_avg_pool1d": lambda p, x: F.adaptive_avg_pool1d(x[:, 0], 4),
    "adaptive_avg_pool3d": lambda p, x: F.adaptive_avg_pool3d(x[:, None], (2, 3, 4)),
    "adaptive_max_pool1d": lambda p, x: F.adaptive_max_pool1d(x[:, 0], 4),
    "adaptive_max_pool3d": lambda p, x: F.adaptive_max_pool3d(x[:, None], (2, 3, 4)),
    "adaptive_max_pool2d": lambda p, x: F.adaptive_max_pool2d(x, (2, 4)),
    **{
        name: lambda p, x, name=name: getattr(F, name)(x)
        for name in (
            "relu", "relu6", "gelu", "silu", "mish", "hardtanh", "hardsigmoid", "hardswish",
            "leaky_relu", "elu", "selu", "celu", "softplus", "logsigmoid", "softsign",
            "tanhshrink", "glu", "softmin",
        )
    },
    "gelu tanh": lambda p, x: F.gelu(x, approximate="tanh"),
    "elu 2": lambda p, x: F.elu(x, 2.0),
    "prelu": lambda p, x: F.prelu(x, p.scale),
    "softmax": lambda p, x: x.softmax(1),
    "log_softmax": lambda p, x: x.log_softmax(-1),
    **{
        name: lambda p, x, name=name: getattr(x, name)()
        for name in (
            "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "neg", "round", "sigmoid",
            "sign", "sin", "square", "tan", "tanh", "trunc",
        )
    },
    **{
        name: lambda p, x, name=name: getattr(x.abs() + 0.5, name)()
        for name in ("log", "log1p", "log2", "reciprocal", "rsqrt", "sqrt")
    },
    "pow": lambda p, x: x**3 + 2.0**x,
    "pow of zero": lambda p, x: x.abs() ** x.relu() + x.relu() ** 1.5 + (x * 0) ** (x + 7) + x**0.0,
    "arithmetic": lambda p, x: 3 - x * 2 + x / 4 - torch.add(x, x, alpha=3) - (1.5 - x),
    "rounded": lambda p, x: torch.div(x, 0.31, rounding_mode="floor")
    + torch.div(x, 0.31, rounding_mode="trunc") + x % 0.71 + x.detach() // 0.43,
    "fused": lambda p, x: torch.addcmul(x, x, x, value=2) + torch.addcdiv(x, x, x + 9) + x.lerp(
        x * 2, 0.25
    ),
    "clamped": lambda p, x: x.clamp(-1, 0.5) + x.clamp_min(0.1) + x.clamp_max(0.2),
    "compared": lambda p, x: torch.where(x > 0.1, x, -x).masked_fill((x < -1) | (x >= 1), 7.0),
    "extremes": lambda p, x: torch.maximum(x, -x) + torch.minimum(x, x * 2) + x.max() - x.min(),
    "max": lambda p, x: x.max(2).values + x.min(2).indices + x.amax((2, 3))[..., None],
    "argmax": lambda p, x: x.argmax(1),
    "detach": lambda p, x: x * x.detach() + x.clone(),
    "sum": lambda p, x: x.sum((1, 2)) + x.mean((1, 2)) + x.logsumexp((1, 2)) + x.amin((1, 2)),
    "mean": lambda p, x: x.mean((2, 3), keepdim=True),
    "var": lambda p, x: x.var(1) + x.std((1,), correction=0) + x.var((1,), unbiased=False),
    "norm": lambda p, x: x.norm(dim=1) + x.norm(p=1, dim=1) + torch.linalg.vector_norm(x, 3, 1),
    "norms": lambda p, x: sum(
        torch.linalg.vector_norm(x, order, 1) for order in (0, 0.5, float("inf"), -float("inf"))
    ),
    "zeros": lambda p, x: (x * 0).norm(dim=1) + (x * 0).norm(p=3, dim=1) + (x * 0).std(1),
    "cumsum": lambda p, x: x.cumsum(2) + (x > 0).cumsum(1, dtype=torch.float32),
    "flatten": lambda p, x: x.flatten(1, 2).unflatten(1, (-1, 4)).permute(0, 2, 1, 3),
    "transpose": lambda p, x: x.transpose(1, 3).swapaxes(1, 2).movedim(1, -1).mT,
    "reshape": lambda p, x: x.reshape(x.shape[0], -1, 3).contiguous().view(-1, 2, 28, 3),
    "expand": lambda p, x: p.scale.view(1, 4, 1).expand(x.shape[0], -1, 2),
    "squeeze": lambda p, x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(-1).squeeze(),
    "cat": lambda p, x: torch.cat([x, x[:, :2]], 1) + torch.stack([x[:, 0]] * 6, 1),
    "split": lambda p, x: torch.cat(x.split(3, 2)[::-1] + x.split([1, 6], 2), 2),
    "chunk": lambda p, x: torch.cat(x.chunk(3, 2)[::-1], 2),
    "unbind": lambda p, x: x.unbind(1)[2] - x.select(1, -1),
    "slice": lambda p, x: x[:, 1:-1, ::2, -4:] + x.narrow(2, 1, 4)[:, :2, :, :4],
    "index": lambda p, x: x[:, [2, 0]] + x.index_select(1, torch.tensor([1, 3])),
    "gather": lambda p, x: x.gather(1, torch.zeros(x.shape, dtype=torch.long) + 2),
    "embedding": lambda p, x: F.embedding((x[:, 0].abs() * 2).long().clamp(0, 5), p.dense.T)
    + F.embedding((x[:, 1].abs() * 2).long().clamp(0, 5), p.dense.T, padding_idx=1),
    "flip": lambda p, x: x.flip(2, 3) + x.roll((1, -2), (2, 3)) + x.roll(1, 1),
    "repeat": lambda p, x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1),
    "pad": lambda p, x: F.pad(x, (1, -2, 0, 3), value=2.0),
    "pad reflect": lambda p, x: F.pad(x, (2, 1, 0, 3), "reflect")
    + F.pad(x, (2, 1, 0, 3), "replicate") + F.pad(x, (2, 1, 0, 3), "circular"),
    "nearest": lambda p, x: F.interpolate(x, scale_factor=2) [:, :, :9] + F.interpolate(x, (9, 12)),
    "nearest and linear 1d": lambda p, x: F.interpolate(x[:, 0], 9)
    + F.interpolate(x[:, 0], 9, mode="linear"),
    # Positions are by the factor that is given, and not by the ratio of the sizes.
    "nearest by a factor": lambda p, x: F.interpolate(x, scale_factor=1.7)
    + F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True),
    "nearest in twice by a factor": lambda p, x: F.interpolate(x, scale_factor=(2.1, 1.5)),
    "nearest 1d by a factor": lambda p, x: F.interpolate(x[:, 0], scale_factor=1.55),
    "nearest by a small factor": lambda p, x: F.interpolate(x, scale_factor=(0.6, 1.1)),
    "bilinear by a factor": lambda p, x: F.interpolate(x, scale_factor=1.7, mode="bilinear")
    + F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True),
    "bilinear by a small factor": lambda p, x: F.interpolate(
        x, scale_factor=(0.6, 1.1), mode="bilinear"
    ),
    "bilinear": lambda p, x: F.interpolate(x, (5, 11), mode="bilinear"),
    "bilinear aligned": lambda p, x: F.interpolate(x, (5, 11), mode="bilinear", align_corners=True),
    "pixel_shuffle": lambda p, x: F.pixel_shuffle(x, 2),
    "made": lambda p, x: torch.zeros_like(x) + torch.ones_like(x) + x.new_zeros(7, 6)
    + torch.full_like(x, 2) + torch.arange(6) + torch.ones(7, 1) + x.new_ones(6),
    "cast": lambda p, x: x.bfloat16().float() + (x > 0).to(x.dtype) + (x * 3).int(),
    "triangles": lambda p, x: x.tril() + x.triu(1),
    "dropped": lambda p, x: F.dropout(x, 0.5, False) + F.dropout2d(x, 0.5, False),
    "equal": lambda p, x: torch.eq(x, x) * 2 + torch.ne(x, 0) + torch.le(x, 0.5)
    + torch.isnan(x).logical_and(x > 0) + ~(x > 0) + torch.full((7, 1), 2.0),
    "logic": lambda p, x: ((x > 0).logical_not() & (x < 1).logical_or(x > 2)).any(1)
    | (x > -1).all(1),
}  # fmt: skip


@pytest.fixture(scope="module")
def each():
    """All of them in one graph, x, the results in PyTorch as a dictionary, and the module.

    The third of the samples consists of halves: maxima have ties, and corners of functions are met.
    """
    module = Each(OPERATIONS)
    source = theirs.generator(1)
    x = torch.randn(3, 4, 7, 6, generator=source).double()
    x[2] = (2 * x[2]).round() / 2
    x[2, :, 0] = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0])
    x.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch copies for an odd padding, and says so
        exact = dict(zip(OPERATIONS, module.results(x), strict=True))
    width = sum(row.shape[1] for row in exact.values())
    with jax.enable_x64(True):
        classifier = interop.from_torch(module, input_shape=(4, 7, 6), num_classes=width)
    return classifier, x, exact, module


def parted(found, exact):
    """The columns of each operation."""
    ends = np.cumsum([row.shape[1] for row in exact.values()])[:-1]
    return dict(zip(exact, np.split(np.asarray(found), ends, axis=-1), strict=True))


def different(found, exact, tolerance):
    """The operations whose arrays differ by more than rounding, and by how much."""
    apart = {
        name: float(np.abs(found[name] - one).max() / max(1, np.abs(one).max()))
        for name, one in exact.items()
    }
    return {name: by for name, by in apart.items() if not by < tolerance}


def test_each_operation(each):
    """In float32."""
    classifier, x, exact, _ = each
    single = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), classifier)
    found = unoptimised(single, x.detach().float().numpy())
    expected = {name: row.detach().numpy() for name, row in exact.items()}
    assert different(parted(found, exact), expected, 2e-5) == {}


# PyTorch has the slope of 1/6 as a number of float32.
SLOPES = {"hardsigmoid": float(np.finfo(np.float32).eps)}


def test_the_gradient_of_each_operation(each):
    """In float64: of sums of up to 1000 products, whose conditioning is below 1000."""
    classifier, x, exact, module = each
    leaves = {"x": x, **dict(module.named_parameters())}
    weights = torch.randn(3, classifier.num_classes, generator=theirs.generator(2)).double()
    weights = parted(weights, exact)
    expected = {
        name: gradients(row, leaves, torch.from_numpy(weights[name])) for name, row in exact.items()
    }
    with jax.enable_x64(True):
        found = {}
        for name in exact:
            only = [weights[one] * (one == name) for one in exact]
            rows, (params, inputs) = pulled(
                classifier, x.detach().numpy(), np.concatenate(only, axis=1)
            )
            found[name] = jax.tree.map(np.asarray, {"x": inputs, **params})
    values = {name: row.detach().numpy() for name, row in exact.items()}
    assert different(parted(rows, exact), values, 1e-10) == {}
    for leaf in leaves:
        ours, exact = ({k: one[leaf] for k, one in of.items()} for of in (found, expected))
        apart = different(ours, exact, 1e-10)
        assert {name: by for name, by in apart.items() if not by < SLOPES.get(name, 0)} == {}, leaf


@functools.partial(jax.jit, compiler_options=UNOPTIMISED)
def pulled(classifier, inputs, weights):
    """The logits, and the gradients of their sum by `weights`."""

    def rows(params, inputs):
        return classifier.replace(params=params).logits(inputs)

    found, back = jax.vjp(rows, classifier.params, inputs)
    return found, back(weights)


def gradients(row, leaves, weights):
    """PyTorch's, of the sum of what an operation gives by `weights`."""
    if not row.requires_grad:
        return {name: np.zeros(one.shape) for name, one in leaves.items()}
    found = torch.autograd.grad(
        row, list(leaves.values()), weights, retain_graph=True, materialize_grads=True
    )
    return {name: one.numpy() for name, one in zip(leaves, found, strict=True)}


def test_every_operation_of_the_table_is_compared(each):
    met = {step.operation for step in each[0].apply.program.steps}
    assert {f"aten.{name}" for name in ATEN} - met == set()
