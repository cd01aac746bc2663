"""Sampling grids, regions of interest, boxes, deformable convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modelguard_runtime.onnx.limits import check_elements
from modelguard_runtime.onnx.ops.base import single
from modelguard_runtime.onnx.ops.conv import conv
from modelguard_runtime.onnx.ops.table import op

_SAMPLING = {"linear": "bilinear", "cubic": "bicubic"}


@op("GridSample", since=16)
def grid_sample(x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    check_elements("GridSample", [*x.shape[:2], *grid.shape[1:-1]])
    return F.grid_sample(x, grid, mode=_SAMPLING.get(mode, mode), padding_mode=padding_mode, align_corners=bool(align_corners))


@op("AffineGrid", since=20, ints=("size",))
def affine_grid(theta: Tensor, size: Sequence[int], *, align_corners: int = 0) -> Tensor:
    check_elements("AffineGrid", [size[0], *size[2:], len(size) - 2])
    return F.affine_grid(theta, list(size), bool(align_corners))


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, H, W) read at points (...): zero more than an element outside, clamped to the edge inside that."""
    height, width = image.shape[-2:]
    outside = (y < -1) | (y > height) | (x < -1) | (x > width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.floor(), x.floor()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    dy, dx = y - y0, x - x0
    corners = [image[:, a.to(torch.int64), b.to(torch.int64)] for a in (y0, y1) for b in (x0, x1)]
    weights = [(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx]
    values = [c * w for c, w in zip(corners, weights, strict=True)]
    return torch.stack([v.masked_fill(outside, 0.0) for v in values])  # (4, C, ...)


@op("RoiAlign", since=16)
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    offset = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    height, width = output_height, output_width
    check_elements("RoiAlign", [rois.shape[0], x.shape[1], height, width, max(sampling_ratio, 1) ** 2])
    made = []
    for box, index in zip(rois, batch_indices.tolist(), strict=True):
        x1, y1, x2, y2 = (box * spatial_scale - offset).unbind()
        w, h = x2 - x1, y2 - y1
        if offset == 0.0:
            w, h = w.clamp(min=1.0), h.clamp(min=1.0)
        rows = sampling_ratio if sampling_ratio > 0 else math.ceil(float(h) / height)
        columns = sampling_ratio if sampling_ratio > 0 else math.ceil(float(w) / width)
        check_elements("RoiAlign", [x.shape[1], height, width, max(rows, 1), max(columns, 1)])
        ys = y1 + h / height * (torch.arange(height * rows, device=x.device, dtype=x.dtype) + 0.5) / rows
        xs = x1 + w / width * (torch.arange(width * columns, device=x.device, dtype=x.dtype) + 0.5) / columns
        grid = ys.reshape(-1, 1).expand(-1, xs.numel()), xs.reshape(1, -1).expand(ys.numel(), -1)
        parts = _bilinear(x[int(index)], *grid)
        # ONNX takes the largest of the weighted corners, not of the interpolated points.
        points = parts.sum(0) if mode == "avg" else parts.amax(0)
        cells = points.reshape(x.shape[1], height, rows, width, columns)
        made.append(cells.mean((2, 4)) if mode == "avg" else cells.amax((2, 4)))
    return torch.stack(made) if made else x.new_zeros(0, x.shape[1], height, width)


@op("RoiAlign", since=10, attributes_of=roi_align)
def roi_align_10(x: Tensor, rois: Tensor, batch_indices: Tensor, **attributes: Any) -> Tensor:
    """Opset 10 knew no half pixels."""
    return roi_align(x, rois, batch_indices, **{"coordinate_transformation_mode": "output_half_pixel", **attributes})


@op("NonMaxSuppression", since=10, ints=("max_output_boxes_per_class", "iou_threshold", "score_threshold"))
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: int | Sequence[int] | None = None,
    iou_threshold: float | Sequence[float] | None = None,
    score_threshold: float | Sequence[float] | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """(selected, 3): batch, class, box. Nothing flows back from it."""
    limit = 0 if max_output_boxes_per_class is None else single(max_output_boxes_per_class)
    overlap = 0.0 if iou_threshold is None else single(iou_threshold)
    least = None if score_threshold is None else single(score_threshold)
    if center_point_box:
        cx, cy, w, h = boxes.unbind(-1)
        corners = torch.stack([cy - h / 2, cx - w / 2, cy + h / 2, cx + w / 2], -1)
    else:
        corners = boxes
    top, bottom = torch.minimum(corners[..., 0], corners[..., 2]), torch.maximum(corners[..., 0], corners[..., 2])
    left, right = torch.minimum(corners[..., 1], corners[..., 3]), torch.maximum(corners[..., 1], corners[..., 3])
    area = (bottom - top) * (right - left)
    chosen: list[tuple[int, int, int]] = []
    for n in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            order = scores[n, c].argsort(descending=True, stable=True)
            if least is not None:
                order = order[scores[n, c][order] > least]
            kept = 0
            while order.numel() and kept < limit:
                best, order = order[0], order[1:]
                chosen.append((n, c, int(best)))
                kept += 1
                height = (torch.minimum(bottom[n, best], bottom[n, order]) - torch.maximum(top[n, best], top[n, order])).clamp(min=0)
                width = (torch.minimum(right[n, best], right[n, order]) - torch.maximum(left[n, best], left[n, order])).clamp(min=0)
                shared = height * width
                order = order[shared / (area[n, best] + area[n, order] - shared) <= overlap]
    return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


@op("DeformConv", since=19)
def deform_conv(
    x: Tensor,
    w: Tensor,
    offset: Tensor,
    b: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Two-dimensional: each kernel tap reads the input where its offset says, by bilinear interpolation with zeros outside."""
    if x.ndim != 4:
        raise ValueError("DeformConv in other than two dimensions")
    sh, sw = strides or (1, 1)
    dh, dw = dilations or (1, 1)
    top, left, _, _ = pads or (0, 0, 0, 0)
    kh, kw = w.shape[2:]
    n, _, height, width = x.shape
    rows, columns = offset.shape[2:]
    check_elements("DeformConv", [n, x.shape[1], kh * kw, rows, columns])
    shift = offset.reshape(n, offset_group, kh * kw, 2, rows, columns)
    tap_y = (torch.arange(kh, device=x.device) * dh).repeat_interleave(kw).reshape(1, 1, -1, 1, 1)
    tap_x = (torch.arange(kw, device=x.device) * dw).repeat(kh).reshape(1, 1, -1, 1, 1)
    y = (torch.arange(rows, device=x.device) * sh - top).reshape(-1, 1) + tap_y + shift[:, :, :, 0]  # (n, og, taps, rows, columns)
    z = (torch.arange(columns, device=x.device) * sw - left) + tap_x + shift[:, :, :, 1]
    grid = torch.stack([2 * z / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1).reshape(
        n * offset_group, kh * kw * rows, columns, 2
    )
    planes = x.reshape(n * offset_group, -1, height, width)
    read = F.grid_sample(planes, grid.to(x.dtype), align_corners=True).reshape(n, offset_group, -1, kh * kw, rows, columns)
    if mask is not None:
        read = read * mask.reshape(n, offset_group, 1, kh * kw, rows, columns)
    taps = read.reshape(n, -1, kh * kw * rows, columns)  # each tap below the one before it
    stacked = taps.reshape(n, x.shape[1], kh * kw, rows * columns)
    return conv(stacked, w.reshape(w.shape[0], w.shape[1], kh * kw, 1), b, group=group).reshape(n, -1, rows, columns)
