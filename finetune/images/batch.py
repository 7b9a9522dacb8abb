"""Augmentation of whole batches on the device, carried out from the numbers that were drawn.

A crop with a resize is separable: each output row is a weighted sum of input rows, and each
output column of input columns. So the crops of a batch are two batched matrix products, whatever
box each image has, with the same filters as Pillow's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from finetune.images.render import Pixels

Triple = tuple[float, float, float]


def channels_first(images: Pixels) -> Tensor:
    """Return images (batch, h, w, 3) as a tensor (batch, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def resample(
    images: Tensor,
    boxes: Tensor,
    flip: Tensor,
    size: tuple[int, int],
    *,
    interpolation: str = "bilinear",
    margin: int = 0,
    fill: tuple[int, int, int] = (0, 0, 0),
) -> Tensor:
    """Cut `boxes` (batch, 4) out of uint8 images (batch, 3, h, w) and bring them to `size`.

    Boxes reach at most `margin` pixels over the edge; what they see there has the colour `fill`.
    Where `flip` (batch,) is set, left and right change places. Returns float32
    (batch, 3, height, width) from 0 to 255.
    """
    batch, _, height, width = images.shape
    rows = _weights(boxes[:, 0], boxes[:, 2], height, size[0], interpolation, margin)
    columns = _weights(boxes[:, 1], boxes[:, 3], width, size[1], interpolation, margin)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    # (batch, h, 3, w): both products then run over contiguous memory.
    pixels = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
    with torch.autocast(images.device.type, enabled=False):
        pixels = torch.bmm(pixels.view(batch, height * 3, width), columns.transpose(1, 2))
        pixels = torch.bmm(rows, pixels.view(batch, height, 3 * size[1]))
    pixels = pixels.view(batch, size[0], 3, size[1]).permute(0, 2, 1, 3).contiguous()
    if any(fill):
        bare = 1 - rows.sum(2)[:, None, :, None] * columns.sum(2)[:, None, None, :]
        pixels += bare * _colour(fill, pixels.device)
    return pixels.clamp_(0, 255)  # bicubic overshoots


def _weights(
    start: Tensor, length: Tensor, side: int, size: int, interpolation: str, margin: int
) -> Tensor:
    """Return (batch, size, side): how much each input pixel adds to each output pixel."""
    pixel = torch.arange(-margin, side + margin, device=start.device)[None, None, :]
    output = torch.arange(size, device=start.device)[None, :, None] + 0.5
    start, length = start[:, None, None], length[:, None, None]
    scale = length / size
    distance = (pixel + 0.5 - start - output * scale) / scale.clamp(min=1.0)
    weights = _kernel(distance.abs(), interpolation)
    # As if the box had been cut out first: nothing beyond its edge shines in.
    weights = weights * ((pixel >= start) & (pixel < start + length))
    weights = weights / weights.sum(dim=2, keepdim=True)
    return weights[:, :, margin : margin + side].contiguous()


def _kernel(x: Tensor, interpolation: str) -> Tensor:
    if interpolation != "bicubic":
        return (1 - x).clamp(min=0)
    near = (1.5 * x - 2.5) * x * x + 1  # Keys 1981 with a = -0.5, as Pillow
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask (batch, 1, height, width) that is true inside each box."""
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    top, left, height, width = (boxes[:, i, None] for i in range(4))
    row = (rows >= top) & (rows < top + height)
    column = (columns >= left) & (columns < left + width)
    return (row[:, :, None] & column[:, None, :])[:, None]


def normalise(pixels: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Return (pixels / 255 - mean) / std, float32, for pixels from 0 to 255."""
    mean_, std_ = (_colour(values, pixels.device) for values in (mean, std))
    return pixels.contiguous().div(255).sub_(mean_).div_(std_)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _colour(values: Triple, device: torch.device) -> Tensor:
    """Return three values as (3, 1, 1), kept: to make a tensor on a GPU is to wait for it."""
    return torch.tensor(values, device=device, dtype=torch.float32).view(3, 1, 1)


def flipped(images: Tensor, flip: Tensor) -> Tensor:
    """Return the images (batch, 3, h, w), mirrored left to right where `flip` (batch,) is set."""
    return torch.where(flip[:, None, None, None], images.flip(3), images)


def mix(pixels: Tensor, partners: Tensor, share: Tensor, cut: Tensor) -> Tensor:
    """Return each image mixed with its partner: faded by `share`, or replaced inside `cut`."""
    faded = torch.lerp(partners, pixels, share.to(pixels.dtype)[:, None, None, None])
    return torch.where(inside(cut, (pixels.shape[2], pixels.shape[3])), partners, faded)
