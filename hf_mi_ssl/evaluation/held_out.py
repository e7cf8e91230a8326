"""What came out: held-out images, measured with everything frozen and in eval mode.

During training a fixed part of the images is tracked (`Evaluation.track`, the `eval/…` keys of `metrics.jsonl`); at
the end everything is measured (`Evaluation.measure`, the `evaluations` of `results.json`), for the trained encoder,
for a random one and for pixels. Accuracies are those of clean views, MI and spectrum those of two fixed random views.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..data import Part
from ..distributed import gather, num_processes, process_index
from ..errors import ExitCode, UserError
from ..estimators import MIEstimate, track
from ..views import RandomViews, ViewRecipe, clean_view
from .batch_norm import Branches, with_statistics
from .geometry import Measured, costly_geometry, measured_geometry, tracked_geometry
from .growth import paired_errors
from .knn import knn_predict, knn_protocol
from .linear_probe import accuracy_interval, linear_probe
from .passes import free_bytes, map_images
from .spectrum import nc1

_PIXEL_BYTES = 2**31
_FEWEST_PAIRS = 32  # of fewer, lower bounds are above the truth by more than a tenth of a nat
_NO_EPOCH = -1  # the views of an evaluation are drawn for an epoch that training never reaches
_SPACES = {"mi": ("z_a", "z_b"), "mi_h": ("h_a", "h_b"), "mi_target": ("z_a", "t_b")}
_LIDAR_IMAGES, _LIDAR_VIEWS = 1000, 10
_STATISTICS_IMAGES = 256


class Evaluation:
    """Measures models on `held`, with `train` for what the kNN and the linear probe learn from, and for the statistics
    of batch norms that have none yet.

    Args:
        recipes: those of the run's two views, which are the two views for MI; size and normalisation of the first
            make the clean views.
        tracked: the most images that `track` looks at, on either side.
        pairs: the most pairs of views that MI and spectrum are measured on.
        before_each: called before each batch, by all processes alike; what it raises ends the measurement.
    """

    def __init__(
        self,
        train: Part,
        held: Part,
        recipes: tuple[ViewRecipe, ViewRecipe],
        seed: int,
        batch_size: int = 512,
        tracked: int = 4096,
        pairs: int = 2048,
        before_each: Callable[[], None] = lambda: None,
    ):
        self.held, self.recipe, self.seed, self.batch_size = held, recipes[0], seed, batch_size
        self.pairs, self.train = held.sample(pairs, seed), train
        self.device, self.before_each = held.images.device, before_each
        self.views = RandomViews(recipes, seed)
        self.parts = train.labelled(), held.labelled()  # empty where the data set has no labels
        self.labelled = all(map(len, self.parts))
        if self.labelled:
            self.classes = torch.cat([part.labels for part in self.parts]).unique()  # of any values: 7, 10⁹, …
        self.tracked = [part.sample(tracked, seed) for part in self.parts]

    def with_statistics(self, branches: Branches) -> Branches:
        """A copy of branches that have not been trained, their batch norms with statistics of two views of training
        images, as training would give them."""
        layers = (module for branch in branches.values() for half in branch for module in half.modules())
        group = max([getattr(layer, "group_size", 1) for layer in layers])
        seen = self.train.sample(max(_STATISTICS_IMAGES, group), self.seed)
        batches = seen.images.batches([seen.indices])
        views = (view for known, images in batches for view in self.views(images, _NO_EPOCH, known))
        return with_statistics(branches, views)

    def track(self, branches: Branches, quality: bool = True, mutual_information: bool = True) -> dict[str, float]:
        """The `eval/…` keys of one evaluation: MI, and what says how good the representation is."""
        embeddings = self._embed(branches)
        values: dict[str, float] = {}
        if mutual_information:
            for name, estimate in self._mutual_information(embeddings).items():
                key = f"eval/{name}"
                values |= {key: estimate.value, f"{key}/ceiling": estimate.ceiling}
                values[f"{key}/saturated"] = int(estimate.saturated)
                values |= {f"{key}/low": estimate.low, f"{key}/high": estimate.high, f"{key}/n": estimate.n}
        if quality:
            geometry = tracked_geometry(embeddings["z_a"], embeddings["z_b"])
            values |= {f"eval/{name}": value for name, value in geometry.items()}
        if quality and self.labelled:
            both = [self._represent(branches["online"][0], part) for part in self.tracked]
            for name, classify in (("knn_top1", self._knn), ("linear_top1", self._linear)):
                correct, n, _ = classify(*both)
                values[f"eval/{name}"] = correct / n
        return values

    def measure(
        self, trained: Branches, random: Branches, mutual_information: bool = True
    ) -> tuple[list[dict], dict[str, float]]:
        """The `evaluations` of `results.json`: accuracies where there are labels, then MI and spectrum. And the paired
        standard errors, in nats, of what MI the trained branches have over the random ones, by its name."""
        rows, embedded = [], []
        if self.labelled:
            pixels = [self._pixels(part) for part in self.parts]
            rows.append(self._accuracy("knn_top1", self._knn, pixels, "pixels"))
            encoders = [("random", "online", random["online"][0])]
            encoders += [("trained", branch, encoder) for branch, (encoder, _) in trained.items()]
            for kind, branch, encoder in encoders:
                both = [self._represent(encoder, part) for part in self.parts]
                if encoder is trained["online"][0]:
                    represented = [x.cpu() for x in both[1]]
                rows.append(self._accuracy("knn_top1", self._knn, both, kind, branch))
                rows.append(self._accuracy("linear_top1", self._linear, both, kind, branch))
        for kind, branches in (("random", random), ("trained", trained)):
            embeddings = self._embed(branches)
            embedded.append(embeddings)
            for name, estimate in self._mutual_information(embeddings).items() if mutual_information else ():
                branch = "target" if name.startswith("mi_target/") else "online"
                row = {"name": name, "value": estimate.value, "low": estimate.low, "high": estimate.high}
                row |= {"n": estimate.n, "split": estimate.split, "protocol": estimate.protocol}
                row |= {"kind": estimate.kind, "ceiling": estimate.ceiling, "saturated": estimate.saturated}
                rows.append(row | {"encoder": kind, "branch": branch})
            rows += self._geometry(measured_geometry(embeddings["z_a"], embeddings["z_b"]), kind)
        rows += self._geometry(costly_geometry(embedded[-1], self._groups(trained)), "trained")
        if self.labelled and (value := nc1(*represented)) is not None:
            found = value, len(represented[0]), "representations h of clean views"
            rows += self._geometry({"collapse/nc1": found}, "trained")
        errors = {
            f"{space}/{name}": error
            for space, sides in _SPACES.items()
            if mutual_information and sides[1] in embedded[-1]
            for name, error in paired_errors(*([found[side] for side in sides] for found in embedded)).items()
        }
        return rows, errors

    def _geometry(self, measured: Measured, kind: str) -> list[dict]:
        rest = {"low": None, "high": None, "split": self.held.split, "encoder": kind, "branch": "online"}
        return [{"name": k, "value": v, "n": n, "protocol": text} | rest for k, (v, n, text) in measured.items()]

    def _accuracy(self, name: str, classify: Callable, data: list, kind: str, branch: str = "online") -> dict:
        correct, n, protocol = classify(*data)
        low, high = accuracy_interval(correct, n)
        row = {"name": name, "value": correct / n, "low": low, "high": high, "n": n, "split": self.held.split}
        return row | {"protocol": protocol, "encoder": kind, "branch": branch}

    def _knn(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[int, int, str]:
        share = -(-len(test[0]) // num_processes())  # each process asks a part of them
        rows = torch.arange(process_index() * share, (process_index() + 1) * share).clamp_max(len(test[0]) - 1)
        asked = knn_predict(*train, test[0][rows.to(test[0].device)], len(self.classes))
        predictions = gather(asked.to(self.device))[: len(test[0])].to(test[1].device)
        protocol = f"{knn_protocol()}, among {len(train[0]):,} of train"
        return int((predictions == test[1]).sum()), len(predictions), protocol

    def _linear(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[int, int, str]:
        result = linear_probe(*train, *test, len(self.classes), self.seed, self.device)
        return result.correct, result.n, result.protocol

    def _mutual_information(self, embeddings: dict[str, Tensor]) -> dict[str, MIEstimate]:
        """MI between the two views: `mi` of the online embeddings z, `mi_h` of its representations h, and `mi_target`
        between online and target embeddings where the target has parameters of its own."""
        if len(self.pairs) < _FEWEST_PAIRS:
            return {}
        return {
            f"{space}/{name}": estimate
            for space, (a, b) in _SPACES.items()
            if b in embeddings
            for name, estimate in track(embeddings[a], embeddings[b], self.held.split).items()
        }

    def _represent(self, encoder: PreTrainedModel, part: Part) -> tuple[Tensor, Tensor]:
        """Representations h of the clean views of a part, (N, H), and its labels, (N,)."""

        def represent(indices: Tensor, images: Tensor) -> dict[str, Tensor]:
            return {"h": encoder(clean_view(images, self.recipe)).pooler_output.flatten(1)}

        found, indices = self._map(represent, part, [encoder])
        h, labels = found["h"], self._classes_of(part, indices)
        # Classifiers make up to two copies. Without room for them neighbours are looked for on the CPU, and the linear
        # probe is sent its batches.
        fits = self.device.type == "cuda" and 4 * h.nbytes < free_bytes(self.device)
        return (h.to(self.device), labels.to(self.device)) if fits else (h, labels)

    def _pixels(self, part: Part) -> tuple[Tensor, Tensor]:
        """The clean views themselves, (N, 3 · S · S) with S of at most 32, and their labels: what an encoder has to
        beat. Of large data sets it is a part, so that no more than some gigabytes are held."""
        side = min(self.recipe.size, 32)  # kNN costs S²
        part = part.sample(_PIXEL_BYTES // (12 * side * side), self.seed)

        def pixels(indices: Tensor, images: Tensor) -> dict[str, Tensor]:
            return {"x": F.adaptive_avg_pool2d(clean_view(images, self.recipe), side).flatten(1)}

        found, indices = self._map(pixels, part)
        return found["x"], self._classes_of(part, indices)

    def _classes_of(self, part: Part, indices: Tensor) -> Tensor:
        """The labels of images of a part as 0 … C − 1, (N,)."""
        return torch.searchsorted(self.classes, part.images.labels[indices])

    def _embed(self, branches: Branches) -> dict[str, Tensor]:
        """The two fixed views of the pairs: h_a, h_b (N, H), z_a, z_b (N, D) online, and t_b (N, D) of the target."""

        def embed(indices: Tensor, images: Tensor) -> dict[str, Tensor]:
            found = {}
            encoder, projector = branches["online"]
            for view, pixels in zip("ab", views := self.views(images, _NO_EPOCH, indices)):
                found[f"h_{view}"] = encoder(pixels).pooler_output.flatten(1)
                found[f"z_{view}"] = projector(found[f"h_{view}"])
            if "target" in branches:
                encoder, projector = branches["target"]
                found["t_b"] = projector(encoder(views[1]).pooler_output.flatten(1))
            return found

        found, _ = self._map(embed, self.pairs, [module for branch in branches.values() for module in branch])
        if not all(embeddings.isfinite().all() for embeddings in found.values()):
            raise UserError(
                "embeddings are not finite: training has diverged; lower --learning_rate and start again, or resume "
                "from an earlier checkpoint",
                exit_code=ExitCode.NOT_FINITE,
            )
        return found

    def embed_clean(self, branches: Branches) -> dict[str, Tensor]:
        """Of clean views of the pairs' images: h (n, H), z (n, D), and the mean colour in [0, 1], (n, 3)."""
        encoder, projector = branches["online"]

        def embed(indices: Tensor, images: Tensor) -> dict[str, Tensor]:
            h = encoder(clean_view(images, self.recipe)).pooler_output.flatten(1)
            return {"h": h, "z": projector(h), "colour": images.float().mean((2, 3)) / 255}

        return self._map(embed, self.pairs, [encoder, projector])[0]

    def _groups(self, branches: Branches) -> dict[str, Tensor]:
        """Many views of each of some images, of the online branch: h (n, q, H) and z (n, q, D)."""
        encoder, projector = branches["online"]

        def embed(indices: Tensor, images: Tensor) -> dict[str, Tensor]:
            draws = range(1, 1 + _LIDAR_VIEWS // 2)
            views = [view for draw in draws for view in self.views(images, _NO_EPOCH - draw, indices)]
            h = torch.stack([encoder(view).pooler_output.flatten(1) for view in views], 1)
            return {"h": h, "z": torch.stack([projector(one) for one in h.unbind(1)], 1)}

        return self._map(embed, self.pairs.sample(_LIDAR_IMAGES, self.seed), [encoder, projector])[0]

    def _map(self, function: Callable, part: Part, modules: list[nn.Module] = ()) -> tuple[dict[str, Tensor], Tensor]:
        return map_images(function, part, modules, self.batch_size, self.before_each)
