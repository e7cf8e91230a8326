"""What a run made of single images: the spectrum of embeddings, a map of representations, nearest neighbours.

All of it is drawn of clean views of held-out images, as `Evaluation.embed_clean` gives them. matplotlib is imported
only when a figure is drawn.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Part
from .figures import new_figure

Embedded = dict[str, dict[str, Tensor]]  # of the random and the trained encoder: h (n, H), z (n, D), colour (n, 3)
_FEWEST, _MOST_CLASSES = 8, 20
_APART = 0.06  # numbers of classes, in shares of the map's width and height
_QUERIES, _NEIGHBOURS = 6, 9
_SIDE, _GAP = 64, 6  # pixels of a cell of the grid, and around it
_INK = {"random": "#999999", "trained": "#0072B2"}
# Of classes, told apart by everybody (Okabe and Ito), and the shapes of the first eight, the next eight …
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
_SHAPES = "o^s"


def draw_maps(embedded: Embedded, held: Part, directory: Path, title: str, show_images: bool = True) -> list[Path]:
    """Draw the figures into `directory`; returns the files written: none of fewer than 8 images, and no grid of images
    unless `show_images`."""
    if len(held) < _FEWEST:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "spectrum.png": spectrum_figure(embedded, title),
        "embedding_map.png": map_figure(embedded, held.labels, title),
    }
    if show_images:
        figures["neighbours.png"] = neighbours_figure(embedded["trained"]["h"], held, title)
    for name, figure in figures.items():
        figure.savefig(directory / name)
    return [directory / name for name in figures]


def spectrum_figure(embedded: Embedded, title: str):
    """λ_k/Σλ against k, λ the eigenvalues of the covariance, of h and of z, before and after training."""
    figure = new_figure(8.0, 3.8)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, space, label in zip(axes, "hz", ("representations h", "embeddings z")):
        for name, found in embedded.items():
            x = found[space].double()
            eigenvalues = torch.linalg.svdvals(x - x.mean(0)).square()
            shares = eigenvalues / eigenvalues.sum().clamp_min(1e-300)
            shares = shares[shares > 1e-9]
            style = "--" if name == "random" else "-"
            axis.loglog(range(1, len(shares) + 1), shares, style, color=_INK[name], label=f"{name} encoder")
        axis.set(title=label, xlabel="direction")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of the variance")
    axes[0].legend(frameon=False)
    figure.suptitle(f"{title}\nspectrum of the covariance, {len(x):,} held-out images", fontsize=10)
    return figure


def map_figure(embedded: Embedded, labels: Tensor | None, title: str):
    """The two leading principal components of h, in the colours and shapes of classes; in the image's mean colour
    where there are no labels or too many classes to tell apart."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    known = labels is not None and (labels >= 0).all()
    classes = labels.unique().tolist() if known else []
    named = 0 < len(classes) <= _MOST_CLASSES
    figure = new_figure(8.0, 4.4)
    for axis, (name, found) in zip(figure.subplots(1, len(embedded)), embedded.items()):
        x = found["h"].double()
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        points, shares = F.pad(u * s, (0, 1))[:, :2], F.pad(s.square() / s.square().sum().clamp_min(1e-300), (0, 1))
        colours, place = found["colour"].clamp(0, 1).numpy(), torch.zeros(len(x), dtype=torch.long)
        if named:
            place = torch.searchsorted(torch.tensor(classes), labels)
            colours = np.array(_COLOURS)[place % len(_COLOURS)]
        for number, shape in enumerate(_SHAPES[: 1 + int(place.max()) // len(_COLOURS)]):
            of_shape = place // len(_COLOURS) == number
            style = {"s": 9, "marker": shape, "alpha": 0.8, "linewidths": 0}
            axis.scatter(*points[of_shape].T, c=colours[of_shape.numpy()], **style)
        extent, written = (points.max(0).values - points.min(0).values).clamp_min(1e-300), []
        for label in classes if named else ():  # written where the class is: colours alone do not tell for everybody
            centre = points[labels == label].median(0).values
            if any(((centre - other).abs() / extent).max() < _APART for other in written):
                continue  # one number on another tells nobody anything
            written.append(centre)
            outline = [withStroke(linewidth=3, foreground="white")]
            axis.annotate(str(label), centre.tolist(), weight="bold", ha="center", va="center", path_effects=outline)
        axis.set(title=f"{name} encoder", xticks=[], yticks=[])
        axis.set(xlabel=f"component 1: {shares[0]:.0%} of the variance", ylabel=f"component 2: {shares[1]:.0%}")
    if named:
        looks = [(_COLOURS[i % len(_COLOURS)], _SHAPES[i // len(_COLOURS)]) for i in range(len(classes))]
        handles = [Line2D([], [], linestyle="", color=colour, marker=shape) for colour, shape in looks]
        figure.legend(handles, classes, title="class", loc="outside right center", frameon=False)
    coloured = "numbers and colours: classes" if named else "colour: that of the image on average"
    said = f"principal components of representations h, {len(x):,} held-out images; {coloured}"
    figure.suptitle(f"{title}\n{said}", fontsize=10)
    return figure


def neighbours_figure(h: Tensor, held: Part, title: str):
    """The first images of `held` and, right of each, its nearest neighbours among all of them, by the cosine of h
    (n, H). Frames mark a neighbour of the query's class, where there are labels."""
    from matplotlib.patches import Rectangle

    unit = F.normalize(h.double(), dim=1)
    queries = held.sample(_QUERIES, seed=0).indices
    rows = torch.searchsorted(held.indices, queries)
    cosines = unit[rows] @ unit.T
    cosines[torch.arange(len(rows)), rows] = 2.0  # the query itself first, whatever its duplicates
    chosen = cosines.topk(min(1 + _NEIGHBOURS, len(h)), dim=1).indices
    images = held.images.fetch(held.indices[chosen.flatten()]).cpu()
    mode = "area" if images.shape[-1] > _SIDE else "nearest"
    cells = F.pad(F.interpolate(images.float(), (_SIDE, _SIDE), mode=mode), (_GAP,) * 4, value=255.0)
    cell, columns = cells.shape[-1], chosen.shape[1]
    grid = cells.unflatten(0, chosen.shape).permute(0, 3, 1, 4, 2).reshape(len(rows) * cell, columns * cell, 3)
    figure = new_figure(8.0, 8.0 * len(rows) / columns + 0.7)
    axis = figure.subplots()
    axis.imshow(grid.round().byte().numpy(), interpolation="nearest")
    axis.axvline(cell - 0.5, color="black", linewidth=1)
    axis.set_axis_off()
    labels, framed = held.labels, ""
    if labels is not None and (labels >= 0).all():
        framed = "; framed: of the query's class"
        for row, column in (labels[chosen[:, 1:]] == labels[chosen[:, :1]]).nonzero().tolist():
            corner = (column + 1) * cell + _GAP - 2, row * cell + _GAP - 2
            size = _SIDE + 3
            axis.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=_INK["trained"], linewidth=2))
    said = f"query, and its nearest of {len(h):,} held-out images by the cosine of representations h{framed}"
    figure.suptitle(f"{title}\n{said}", fontsize=10)
    return figure
