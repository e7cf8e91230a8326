"""Terms forward and backward, and what the machine can do."""

import torch
from benchmarks.registry import Round, Settings, case


def term(name: str, form: str, n: int, d: int, settings: Settings) -> Round:
    from benchmarks.terms import embeddings, forms

    function, (a, b) = forms(name, n, d)[form], embeddings(n, d, settings.device)

    def run():
        a.grad = b.grad = None
        function(a, b).backward()
        return {"images": 1}

    return run


def peers_term(make, n: int, d: int, settings: Settings) -> Round:
    """The loss of another package; it may differ from ours by a constant and a factor, so that only costs compare."""
    from benchmarks.terms import embeddings

    loss, (a, b) = make(), embeddings(n, d, settings.device)

    def run():
        a.grad = b.grad = None
        loss(a, b).backward()
        return {"images": 1}

    return run


def lightly_nt_xent():
    from benchmarks.terms import TEMPERATURE
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def lightly_barlow_twins():
    from lightly.loss import BarlowTwinsLoss

    return BarlowTwinsLoss()


def solo_learn_nt_xent():
    from benchmarks.steps import solo_nt_xent
    from benchmarks.terms import TEMPERATURE

    return solo_nt_xent(TEMPERATURE)


PEERS = {
    "nt_xent": {"lightly": lightly_nt_xent, "solo-learn": solo_learn_nt_xent},
    "redundancy": {"lightly, Barlow Twins": lightly_barlow_twins},
}


def _terms() -> None:
    from benchmarks.terms import OF_DIMENSIONS, PLAIN, forms

    for name in PLAIN:
        shapes = [(256, 2048), (256, 8192)] if name in OF_DIMENSIONS else [(256, 128), (4096, 128), (16384, 128)]
        for n, d in shapes:
            for form in forms(name, n, d):
                label = "ours" if form == "ours" else f"plain: {form}"
                case("terms", f"{name}, N = {n}, D = {d}", label, name, form, n, d)(term)
            for label, make in PEERS.get(name, {}).items() if len(forms(name, n, d)) > 1 else ():
                case("terms", f"{name}, N = {n}, D = {d}", label, make, n, d)(peers_term)


# What the machine can do


def matmul(dtype: torch.dtype, settings: Settings) -> Round:
    n = 8192 if settings.device == "cuda" else 1024
    x, y = (torch.randn(n, n, device=settings.device).to(dtype) for _ in range(2))

    def run():
        for _ in range(4):
            x @ y
        return {"images": 1, "flops": 4 * 2 * n**3}

    return run


case("roofline", "matrix product", "float32", torch.float32)(matmul)
case("roofline", "matrix product", "bf16", torch.bfloat16)(matmul)


@case("roofline", "copy", "float32")
def copy(settings: Settings) -> Round:
    source = torch.zeros(2**28 if settings.device == "cuda" else 2**25, device=settings.device)
    target = torch.empty_like(source)

    def run():
        target.copy_(source)
        return {"images": 1, "bytes": 2 * source.nbytes}

    return run


_terms()
