"""What is done to a batch of images to make a view: each operation with parameters of its own for each image.

The semantics are torchvision's (`resized_crop` with antialias, `adjust_*`, `gaussian_blur`, `solarize`), image by
image; the form is a few tensor operations over the batch, on whatever device it is on, because calls for single images
are what makes augmentation slow. Images are float32 (n, 3, H, W) in [0, 1]; parameters are (n,) and may stay on the
CPU: nothing here waits for another device.

An image's result does not depend on the rest of the batch, to the last bit on a CPU. Hence multiplications and
additions stay separate operations: a fused one rounds differently in the body and in the tail of a vectorised loop.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, in torchvision's digits


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 in 0 … 255, or floating point in [0, 1] -> float32 in [0, 1]. Raises TypeError for other types."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point in [0, 1], not {images.dtype}")
    return images.to(torch.float32)


def on_rows_(images: Tensor, mask: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Replace, in place, the images where `mask` (n,) holds by operation(those images, *their parameters)."""
    rows = mask.nonzero().squeeze(1)
    if len(rows):
        there = rows.to(images.device, non_blocking=True)
        done = operation(images.index_select(0, there), *(parameter[rows] for parameter in parameters))
        images.index_copy_(0, there, done)
    return images


def resized_crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """Boxes, integers in pixels, resized to (n, 3, size, size): bilinear, with antialias. Images may be uint8 too."""
    images = to_unit_range(images)
    rows = _resize_matrix(top, height, images.shape[2], size, images.device)
    columns = _resize_matrix(left, width, images.shape[3], size, images.device)
    return _separable(images, rows, columns)


def horizontal_flip(images: Tensor) -> Tensor:
    """Mirror left and right."""
    return images.flip(3)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """clamp(factor · x)"""
    return (images * _per_image(factor, images)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """clamp(factor · x + (1 − factor) · mean of the image's luma)"""
    # In two steps: a mean of a single image over all its pixels is split among threads, which changes its rounding.
    mean = _luma(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return _blend(images, mean, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """clamp(factor · x + (1 − factor) · luma of the pixel)"""
    return _blend(images, _luma(images), factor)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue of HSV by `factor`, in turns, −0.5 … 0.5.

    Turning keeps a pixel's largest and smallest channel values, so HSV is never built: with the hue h in turns, each
    channel is low + (high − low) · clamp(6 · |distance of h from the opposite of the channel's own hue| − 1, 0, 1).
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    # 6 · chroma · hue is g − b, b − r + 2 · chroma or r − g + 4 · chroma where red, green or blue is the largest,
    # chosen by arithmetic with masks in float32 because torch.where takes four times as long on a CPU.
    is_red, is_green = torch.eq(red, high, out=torch.empty_like(high)), torch.eq(green, high, out=high)
    twice = chroma * 2
    hue = (red - green).add_(twice)
    hue.add_((blue - red).sub_(hue).mul_(is_green)).add_(twice)
    hue.add_((green - blue).sub_(hue).mul_(is_red))
    hue.div_((chroma * 6).clamp_min_(1e-12))  # a grey pixel has no hue, and its chroma 0 makes any do
    hue.add_(_per_image(factor, images).squeeze(1))
    opposite = _move(torch.tensor((1 / 2, 5 / 6, 7 / 6)), images.device).view(3, 1, 1)
    share = hue.unsqueeze(1) - opposite
    share.sub_(share.round()).abs_().mul_(6).sub_(1).clamp_(0, 1)
    return share.mul_(chroma.unsqueeze(1)).add_(low.unsqueeze(1))


COLOR_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def color_jitter_(images: Tensor, mask: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Apply, in place where `mask` holds, the four COLOR_OPERATIONS in the image's own order.

    `order` (n, 4) is a permutation of 0 … 3 in each row, `factors` (n, 4) has one column for each operation.
    """
    for turn in order.unbind(1):
        for number, operation in enumerate(COLOR_OPERATIONS):
            on_rows_(images, mask & (turn == number), operation, factors[:, number])
    return images


def to_grayscale(images: Tensor) -> Tensor:
    """Luma in all three channels."""
    return _luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve with a Gaussian of width `sigma` > 0, in pixels, cut to `kernel_size` (odd) and normalised.

    Edges are reflected; kernel_size // 2 must be smaller than H and W.
    """
    rows = _blur_matrix(sigma, kernel_size, images.shape[2], images.device)
    columns = _blur_matrix(sigma, kernel_size, images.shape[3], images.device)
    return _separable(images, rows, columns)


def solarize(images: Tensor, threshold: float = 0.5) -> Tensor:
    """1 − x where x ≥ threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x − mean) / std for each channel."""
    mean, std = (_move(torch.tensor(values), images.device).view(3, 1, 1) for values in (mean, std))
    return (images - mean).div_(std)


def _move(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, torch.float32, non_blocking=True)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return _move(values, images.device).view(-1, 1, 1, 1)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    return (red * _LUMA[0]).add_(green * _LUMA[1]).add_(blue * _LUMA[2])  # (n, 1, H, W)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _per_image(factor, images)
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columnsᵀ for each channel; (n, 3, H, W), (n, S, H), (n, T, W) -> (n, 3, S, T)"""
    n, channels, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):
        along_width = torch.bmm(images.reshape(n, channels * height, width), columns.mT)
        return torch.matmul(rows.unsqueeze(1), along_width.view(n, channels, height, -1))


def _resize_matrix(start: Tensor, length: Tensor, extent: int, size: int, device: torch.device) -> Tensor:
    """(n, size, extent): the weights of `extent` pixels in the `size` pixels that cover start … start + length."""
    start, length = (_move(values, device).view(-1, 1, 1) for values in (start, length))
    scale = length / size
    pixel = torch.arange(extent, device=device) - start  # (n, 1, extent), counted from the start of the box
    centre = torch.arange(0.5, size, device=device).view(-1, 1) * scale  # (n, size, 1)
    # A triangle, as wide as an output pixel where that is larger: this is the antialias.
    weight = ((pixel + 0.5) - centre).div_(scale.clamp_min(1)).abs_().neg_().add_(1).clamp_min_(0)
    weight.mul_((pixel >= 0) & (pixel < length))
    return weight.div_(weight.sum(dim=2, keepdim=True))


def _blur_matrix(sigma: Tensor, kernel_size: int, extent: int, device: torch.device) -> Tensor:
    """(n, extent, extent): the convolution with a Gaussian as a banded matrix, reflection at both ends included."""
    radius = kernel_size // 2
    distance = torch.arange(radius + 2, dtype=torch.float64)
    # In float64, so that the rounding of exp(), which varies with its place in the batch, does not reach the weights.
    weight = torch.exp(-0.5 * (distance / sigma.cpu().double().view(-1, 1)) ** 2)
    weight[:, radius + 1] = 0  # what is farther than the radius
    weight /= 2 * weight.sum(dim=1, keepdim=True) - weight[:, :1]
    weight = _move(weight, device)
    i, j = torch.arange(extent, device=device).view(-1, 1), torch.arange(extent, device=device)
    last = extent - 1
    matrix = weight[:, (i - j).abs().clamp_max(radius + 1)]
    # Pixel j stands in for −j and for 2 · last − j too, which lie outside unless j is the edge itself.
    matrix += weight[:, torch.where(j > 0, i + j, radius + 1).clamp_max(radius + 1)]
    matrix += weight[:, torch.where(j < last, 2 * last - i - j, radius + 1).clamp_max(radius + 1)]
    return matrix
