"""Neural network ops of aten in JAX: convolutions, norms, pooling, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.indexing import scatter

__all__ = ["NN"]


def _convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups):
    n = w.ndim - 2
    letters = "DHW"[-n:]
    layout = (f"NC{letters}", f"OI{letters}", f"NC{letters}")
    if transposed:
        # the gradient of a convolution: flip, swap channels, dilate the input
        k = w.shape[2:]
        w = jnp.flip(w, tuple(range(2, w.ndim)))
        w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)
        w = w.reshape(-1, *w.shape[2:])
        pads = [
            (d * (m - 1) - p, d * (m - 1) - p + o)
            for m, p, d, o in zip(k, padding, dilation, output_padding, strict=True)
        ]
        y = jax.lax.conv_general_dilated(
            x,
            w,
            (1,) * n,
            pads,
            lhs_dilation=stride,
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
    else:
        y = jax.lax.conv_general_dilated(
            x,
            w,
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * n)


def _convolution_backward(
    g, x, w, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
):
    def forward(x, w):
        return _convolution(
            x, w, None, stride, padding, dilation, transposed, output_padding, groups
        )

    dx, dw = jax.vjp(forward, x, w)[1](g)
    db = g.sum((0, *range(2, g.ndim))) if mask[2] else None
    return dx if mask[0] else None, dw if mask[1] else None, db


def _batch_norm(x, weight, bias, mean, var, training, momentum, eps):
    if not training:
        return _batch_norm_eval(x, weight, bias, mean, var, momentum, eps)
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axes), jnp.var(x, axes)
    y, _, _ = _batch_norm_eval(x, weight, bias, mean, var, momentum, eps)
    return y, mean, jax.lax.rsqrt(var + eps)


def _layer_norm(x, shape, weight, bias, eps):
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.var(x, axes, keepdims=True) + eps)
    y = (x - mean) * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


def _layer_norm_backward(g, x, shape, mean, rstd, weight, bias, mask):
    lead = tuple(range(x.ndim - len(shape)))
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    z = (x - mean) * rstd
    gz = g if weight is None else g * weight
    inner = gz - gz.mean(axes, keepdims=True) - z * (gz * z).mean(axes, keepdims=True)
    return (
        rstd * inner if mask[0] else None,
        (g * z).sum(lead) if mask[1] and weight is not None else None,
        g.sum(lead) if mask[2] and bias is not None else None,
    )


def _group_norm(x, weight, bias, n, c, hw, groups, eps):
    grouped = x.reshape(n, groups, -1)
    mean = grouped.mean(-1)
    rstd = jax.lax.rsqrt(jnp.var(grouped, -1) + eps)
    y = ((grouped - mean[..., None]) * rstd[..., None]).reshape(x.shape)
    channels = (1, c, *(1,) * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels), mean, rstd


def _batch_norm_eval(x, weight, bias, mean, var, momentum, eps):
    channels = (1, -1, *(1,) * (x.ndim - 2))
    y = (x - mean.reshape(channels)) * jax.lax.rsqrt(var + eps).reshape(channels)
    y = y if weight is None else y * weight.reshape(channels)
    empty = jnp.zeros((0,), x.dtype)
    return y if bias is None else y + bias.reshape(channels), empty, empty


def _embedding_backward(g, index, num_weights, padding_idx, scale_grad_by_freq):
    rows = index.reshape(-1)
    g = g.reshape(-1, g.shape[-1])
    if scale_grad_by_freq:
        g = g / jnp.zeros(num_weights, g.dtype).at[rows].add(1)[rows][:, None]
    if padding_idx >= 0:
        g = jnp.where((rows == padding_idx)[:, None], 0, g)
    return jnp.zeros((num_weights, g.shape[-1]), g.dtype).at[rows].add(g)


def _avg_pool2d(
    x, kernel, stride=(), padding=(0, 0), ceil=False, count_include_pad=True, divisor=None
):
    if ceil:
        raise NotImplementedError("avg_pool2d with ceil_mode")
    kernel, stride, padding = _pair(kernel), _pair(stride or kernel), _pair(padding)
    lead = (1,) * (x.ndim - 2)
    pads = [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding]

    def add(v):
        zero = x.dtype.type(0)
        return jax.lax.reduce_window(
            v, zero, jax.lax.add, (*lead, *kernel), (*lead, *stride), pads
        )

    if divisor:
        return add(x) / divisor
    return add(x) / (kernel[0] * kernel[1] if count_include_pad else add(jnp.ones_like(x)))


def _avg_pool2d_backward(g, x, *options):
    return jax.vjp(lambda x: _avg_pool2d(x, *options), x)[1](g)[0]


def _nearest(count, size, scale):
    step = size / count if scale is None else 1 / scale
    return jnp.minimum(jnp.floor(jnp.arange(count) * step).astype(jnp.int32), size - 1)


def _upsample(x, size, height=None, width=None):
    rows = _nearest(size[0], x.shape[-2], height)
    cols = _nearest(size[1], x.shape[-1], width)
    return x[..., rows[:, None], cols]


def _upsample_backward(g, size, input_size, height=None, width=None):
    x = jnp.zeros(tuple(input_size), g.dtype)
    return jax.vjp(lambda x: _upsample(x, size, height, width), x)[1](g)[0]


def _linear(x, axis, count, scale, corners):
    """Interpolate linearly along one axis, clamped to the border."""
    size, places = x.shape[axis], jnp.arange(count, dtype=x.dtype)
    if corners:
        places = places * ((size - 1) / max(1, count - 1))
    else:
        step = size / count if scale is None else 1 / scale
        places = jnp.maximum((places + 0.5) * step - 0.5, 0.0)
    low = jnp.minimum(jnp.floor(places).astype(jnp.int32), size - 1)
    share = (places - low).reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])
    high = jnp.minimum(low + 1, size - 1)
    return (1 - share) * jnp.take(x, low, axis) + share * jnp.take(x, high, axis)


def _bilinear(x, size, corners, height=None, width=None):
    return _linear(_linear(x, -2, size[0], height, corners), -1, size[1], width, corners)


def _bilinear_backward(g, size, input_size, corners, height=None, width=None):
    x = jnp.zeros(tuple(input_size), g.dtype)
    return jax.vjp(lambda x: _bilinear(x, size, corners, height, width), x)[1](g)[0]


def _pad2d(mode):
    def run(x, pad):
        left, right, top, bottom = pad
        widths = [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)]
        return jnp.pad(x, widths, mode=mode)

    return run


def _pad2d_backward(mode):
    return lambda g, x, pad: jax.vjp(lambda x: _pad2d(mode)(x, pad), x)[1](g)[0]


def _pair(value):
    value = [value] if isinstance(value, int) else list(value)
    return tuple(value * 2 if len(value) == 1 else value)


def _max_pool2d(x, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil=False):
    if ceil:
        raise NotImplementedError("max_pool2d with ceil_mode")
    kernel, stride, padding = _pair(kernel), _pair(stride or kernel), _pair(padding)
    height, width = x.shape[-2:]
    pads = [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding]
    padded = jnp.pad(x, pads, constant_values=-jnp.inf)
    places = jnp.arange(height * width).reshape(height, width)
    places = jnp.pad(places, [(p, p) for p in padding])
    windows = []
    for size, step, many, far in zip(
        kernel, stride, padded.shape[-2:], _pair(dilation), strict=True
    ):
        count = (many - far * (size - 1) - 1) // step + 1
        windows.append(step * jnp.arange(count)[:, None] + far * jnp.arange(size))
    rows, cols = windows[0][:, None, :, None], windows[1][None, :, None, :]
    values = padded[..., rows, cols]
    shape = values.shape[:-2]
    values = values.reshape(*shape, -1)
    best = jnp.argmax(values, -1)
    index = jnp.broadcast_to(places[rows, cols].reshape(*shape[-2:], -1), values.shape)
    return values.max(-1), jnp.take_along_axis(index, best[..., None], -1)[..., 0]


def _max_pool2d_backward(g, x, kernel, stride, padding, dilation, ceil, index):
    flat = jnp.zeros((*x.shape[:-2], x.shape[-2] * x.shape[-1]), g.dtype)
    index, g = index.reshape(*x.shape[:-2], -1), g.reshape(*x.shape[:-2], -1)
    return scatter(flat, flat.ndim - 1, index, g, "add").reshape(x.shape)


def _grid_sample(x, grid, mode, padding, align_corners):
    if (mode, padding) != (0, 0):
        raise ValueError("grid_sample is bilinear here, with zeros around the image")
    height, width = x.shape[2:]
    places = []
    for size, g in ((height, grid[..., 1]), (width, grid[..., 0])):
        places.append((g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2)
    (row, column), total = places, 0.0
    top, left = jnp.floor(row), jnp.floor(column)
    images = jnp.arange(x.shape[0])[:, None, None]
    for i, weight_i in ((top, top + 1 - row), (top + 1, row - top)):
        for j, weight_j in ((left, left + 1 - column), (left + 1, column - left)):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            at_row = jnp.clip(i, 0, height - 1).astype(jnp.int32)
            at_column = jnp.clip(j, 0, width - 1).astype(jnp.int32)
            found = jnp.moveaxis(x[images, :, at_row, at_column], -1, 1)
            total = total + found * jnp.where(inside, weight_i * weight_j, 0.0)[:, None]
    return total


def _grid_sample_backward(gradient, x, grid, mode, padding, align_corners, wanted):
    _, pull = jax.vjp(lambda x, grid: _grid_sample(x, grid, mode, padding, align_corners), x, grid)
    by_x, by_grid = pull(gradient)
    return by_x if wanted[0] else None, by_grid if wanted[1] else None


NN: dict[str, Callable[..., Any]] = {
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "embedding": lambda weight, index, *_: weight[index],
    "embedding_dense_backward": _embedding_backward,
    "hardtanh": lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high),
    "max_pool2d_with_indices": _max_pool2d,
    "max_pool2d_with_indices_backward": _max_pool2d_backward,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "reflection_pad2d": _pad2d("reflect"),
    "reflection_pad2d_backward": _pad2d_backward("reflect"),
    "replication_pad2d": _pad2d("edge"),
    "replication_pad2d_backward": _pad2d_backward("edge"),
    "grid_sampler_2d": _grid_sample,
    "grid_sampler_2d_backward": _grid_sample_backward,
    "upsample_bilinear2d": _bilinear,
    "upsample_bilinear2d_backward": _bilinear_backward,
    "upsample_nearest2d": _upsample,
    "upsample_nearest2d_backward": _upsample_backward,
    "_native_batch_norm_legit_no_training": _batch_norm_eval,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
}
