"""kNN and linear probes on representations."""

import torch
from benchmarks.registry import Round, Settings, case
from torch import nn


def representations(settings: Settings):
    n, d, classes = max(512, int(50_000 * settings.scale)), 512, 10
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, d, generator=draw)
    labels = torch.randint(classes, (n + n // 5,), generator=draw)
    h = (centres[labels] + 6 * torch.randn(len(labels), d, generator=draw)).to(settings.device)
    labels = labels.to(settings.device)
    return h[:n], labels[:n], h[n:], labels[n:], classes


def timed(function, **facts) -> Round:
    def run():
        function()
        return {"images": 1} | facts

    return run


@case("evaluation", "kNN, 50k × 512, k = 200", "ours")
def ours_knn(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import knn_predict

    train, y, test, _, classes = representations(settings)
    return timed(lambda: knn_predict(train, y, test, classes, 200, 0.1))


@case("evaluation", "kNN, 50k × 512, k = 200", "lightly")
def lightly_knn(settings: Settings) -> Round:
    from lightly.utils.benchmarking import knn_predict

    train, y, test, _, classes = representations(settings)
    bank = nn.functional.normalize(train, dim=1).T.contiguous()
    rows = nn.functional.normalize(test, dim=1).split(256)
    return timed(lambda: [knn_predict(part, bank, y, classes, 200, 0.1) for part in rows])


@case("evaluation", "linear probe, 50k × 512", "ours: 6 learning rates, chosen and fitted again")
def ours_probe(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import linear_probe

    data = representations(settings)
    return timed(lambda: linear_probe(*data, seed=0))


@case("evaluation", "linear probe, 50k × 512", "ours: ridge, 7 penalties")
def ours_ridge(settings: Settings) -> Round:
    from hf_mi_ssl.evaluation import ridge_probe

    data = representations(settings)
    return timed(lambda: ridge_probe(*data, seed=0))


@case("evaluation", "linear probe, 50k × 512", "plain loop: 1 learning rate, 30 epochs of a DataLoader")
def plain_probe(settings: Settings) -> Round:
    train, y, *_, classes = representations(settings)
    data = torch.utils.data.TensorDataset(train, y)

    def fit():
        layer = nn.Linear(train.shape[1], classes).to(train.device)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
        for _ in range(30):
            for h, labels in torch.utils.data.DataLoader(data, 256, shuffle=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(h), labels).backward()
                optimizer.step()

    return timed(fit)
