"""What do models reach that are trained with a surrogate of the marginal term, where the law is not Gaussian?

    python recipes/experiments/surrogate_training.py

Two noisy views of white laws of one covariance, Gaussian and not, whose MI is known; `jmi` with the exact term and
with each surrogate in its place.
"""

import itertools
import sys
from argparse import Namespace
from collections.abc import Sequence

import drawing
from harness import (
    BARE,
    LADDER,
    TINY,
    Done,
    Job,
    Replicates,
    arms_table,
    at,
    last,
    main,
    mean,
    means,
    over_arms,
    replicated,
    replicates,
    train,
    truth_of,
)
from laws import MOMENTS
from reporting import Claim, Interval, Report, extension, literature, ours, paired

NAME = "surrogate_training"
OTHERS = [law for law in MOMENTS if law != "gaussian"]
JMI = {"method": "jmi"}
TERMS = {
    "exact": JMI | {"columns": {"marginal": LADDER["exact"]}},
    "order 2": JMI | {"columns": {"marginal": LADDER["order 2"]}},
    "order 3": JMI | {"columns": {"marginal": LADDER["order 3"]}},
    "Gaussian": JMI | {"columns": {"marginal": {"gaussian": 1.0}}},
    "redundancy": {"method": "barlow_twins", "columns": {"marginal": {"redundancy": 0.2}}},
}
SURROGATES = list(TERMS)[1:]
TEMPERATURE, MARGIN = 0.5, 0.1
COMMON = {"steps": 150, "batch_size": 128, "evaluations": 5}
NATS = last("mi/cos_dv_calibrated")


def jobs(seeds: Sequence[int], tiny: bool) -> list[Job]:
    arms = {
        f"{law}, {term}": settings
        | {"source": source_of(law), "columns": BARE | {"temperature": TEMPERATURE} | settings["columns"]}
        for law, (term, settings) in itertools.product(list(MOMENTS)[:1] if tiny else MOMENTS, TERMS.items())
    }
    return replicated(NAME, train, arms, seeds, **COMMON | (TINY if tiny else {}))


def source_of(law: str) -> dict:
    return {"name": "noisy_law", "law": law}


def claims(done: Done) -> list[Claim]:
    def of(laws: Sequence[str], term: str) -> Replicates:
        return over_arms(done, [f"{law}, {term}" for law in laws], NATS)

    def loss(laws: Sequence[str], term: str) -> Interval:
        return paired(of(laws, "exact"), of(laws, term))

    def more_loss(term: str) -> Interval:
        lost = [
            {
                seed: exact[seed] - other[seed]
                for seed in set(exact) & set(other)
                if None not in (exact[seed], other[seed])
            }
            for exact, other in ((of(laws, "exact"), of(laws, term)) for laws in (OTHERS, ["gaussian"]))
        ]
        return paired(*lost)

    found = [
        ours(
            "order 2 reaches what the exact term does where the law is not Gaussian: MI, exact less order 2 (nats)",
            loss(OTHERS, "order 2"),
            within=MARGIN,
            primary=True,
        ),
        ours("the same where it is", loss(["gaussian"], "order 2"), within=MARGIN),
        *(ours(f"the same of the {law} law alone", loss([law], "order 2"), within=MARGIN) for law in OTHERS),
        literature(
            "order 3 reaches more than order 2 of the law with skewness, rectified",
            paired(*(replicates(done, f"rectified, {term}", NATS) for term in ("order 3", "order 2"))),
        ),
    ]
    for term, source in (("order 2", ours), ("Gaussian", ours), ("redundancy", extension)):
        text = f"{term} loses more to the exact term where the law is not Gaussian than where it is (nats)"
        found.append(source(text, more_loss(term)))
    return found


def report(done: Done, args: Namespace) -> Report:
    return Report(
        NAME,
        "The paper derives its surrogates for jointly Gaussian embeddings. Our derivation: the second order is exact "
        "for any law, in the limit of high temperature, so that training with it should not need one.",
        "white x of 8 independent coordinates, each view with its own noise of half their size; heads without batch "
        f"norm, τ = {TEMPERATURE:g}, {COMMON['steps']} steps of {COMMON['batch_size']} pairs, Adam at 3e-3; MI is "
        f"calibrated cos-DV, held out. Seeds 0 to 4. As good as: within {MARGIN:g} nats.",
        claims(done),
        reached(done),
        lambda: draw(done),
    )


def reached(done: Done) -> str:
    rows = {
        f"{law} ({truth_of(source_of(law)):.2f} nats), {term}": f"{law}, {term}"
        for law, term in itertools.product(MOMENTS, TERMS)
    }
    columns = {
        "cos-DV, calibrated": NATS,
        "cos-DV": last("mi/cos_dv"),
        "InfoNCE": last("mi/info_nce"),
        "rank of z": last("rank/effective_rank"),
        "linear accuracy of h": at("end", "linear_h"),
    }
    return f"## Where the runs end\n\n{arms_table('law (MI of the views), term', rows, means(done, columns))}"


def draw(done: Done):
    figure, axes = drawing.panels(1, 1, 6.0, 3.8)
    (axis,) = axes[0]
    for i, term in enumerate(TERMS):
        found = {law: mean(done, f"{law}, {term}", NATS) for law in MOMENTS}
        drawing.points(axis, found, i, term, 0.14 * (i - 2))
    axis.set(title="held-out MI that is reached", xlabel="calibrated cos-DV (nats)")
    drawing.legend(figure, axes)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
