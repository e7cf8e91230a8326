"""The tables of marginal_ablation.py: the grid, the predictor without a marginal term, which gauge sees collapse."""

import collapse
from ablation_arms import BY_RESET, EXACT_WHITE, GRID, LONG_ARMS, NORMED, OTHER_WHITE, PANEL, SCALE_FREE, name_of
from collapse import ONLINE, TARGET, fewest, rank_and_kinds
from harness import LADDER, Cell, Done, arms_table, at, last, means, replicates, shares
from white_targets import predicted


def label(predictor: bool, target: str, without: str = ", no predictor") -> str:
    return f"{target}{', predictor' if predictor else without}"


def grid(done: Done) -> str:
    rows = {label(*row): row for row in GRID}

    def column(marginal: str) -> Cell:
        return lambda row: rank_and_kinds(done, name_of(*reversed(rows[row]), marginal))

    normed = [name_of(*row, "none", norm=True) for row in NORMED]
    kept = [*replicates(done, BY_RESET, fewest).values()]
    above = ", ".join(f"{sum(rank > least for rank in kept)} above {least:g}" for least in (2.0, collapse.RANK, 3.0))
    return (
        "## The grid\n\nEffective rank (of 16) at the end, of the branch that has less, how many of the runs "
        "collapsed to what, and the median step at which that was first "
        f"seen.\n\n{arms_table('SDMI', list(rows), {m: column(m) for m in LADDER})}\n\nWhere the line of collapse is "
        f"drawn decides of the reset target with a predictor and no marginal term: of {len(kept)} runs "
        f"{above}.\n\nBatch norm at the projector's "
        f"end:\n\n{arms_table('arm', normed, {'rank': lambda arm: rank_and_kinds(done, arm)})}"
    )


def panel(done: Done) -> str:
    reads = {
        "rank of z": last(ONLINE),
        "rank of target t": last(TARGET),
        "cos-DV (z, z′)": last("mi/cos_dv"),
        "rank of W(t − μ)": at("white", "rank"),
        "cos-DV (prediction, t)": predicted,
    }
    columns = means(done, reads) | shares(done, {"linear accuracy of z": at("end", "linear_z")})
    columns |= {"first step in collapse": lambda arm: collapse.first_step(done, arm)}
    rows = [*PANEL, SCALE_FREE, *EXACT_WHITE.values(), *OTHER_WHITE, *(f"{arm}, long" for arm in LONG_ARMS)]
    return (
        "## The predictor without a marginal term\n\nWhite targets are compared with predictions as W(t − μ), all "
        "others as they are. But for the exactly white ones, whose W(t − μ) has all 16 dimensions by construction, W "
        "is that of a covariance shrunk by 1e-3 towards the identity; our derivation has Cov = I: of shrunk targets "
        "it says nothing. What we had not derived: under the cosine it is the target that ends with fewer "
        f"dimensions, under the squared error the online branch.\n\n{arms_table('arm', rows, columns)}"
    )


def gauges(done: Done) -> str:
    return (
        "## Which gauge sees it\n\nOf all runs here and of those of [regulariser weights](regulariser_weights.md); "
        "the first four define collapse, at the end of a run. Whether a gauge sees it is asked at every evaluation "
        "but the first, of runs that end collapsed and of those that do not. A gauge of z cannot see a "
        f"target that has collapsed.\n\n{collapse.gauges_table(done)}"
    )
