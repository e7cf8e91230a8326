"""DINO, arXiv 2104.14294, eq. 3 and Algorithm 1: cross-entropy of the online scores under the target's assignment.

Scores are the outputs of the prototypes, (N, K) for each view; the target sees the first two views only. The mean over
all pairs of a target's view with a different online view, as in the official code; eq. 3 writes their sum.
"""

import torch.nn.functional as F


def loss(online, target, centre, online_temperature, target_temperature):
    """online: the scores of all views, the two global ones first; target: of the two; centre (K,)."""
    total, pairs = 0, 0
    for i, t in enumerate(target):
        assignment = F.softmax((t.detach() - centre) / target_temperature, dim=1)
        for j, s in enumerate(online):
            if i != j:
                total = total - (assignment * F.log_softmax(s / online_temperature, dim=1)).sum(dim=1).mean()
                pairs += 1
    return total / pairs


def next_centre(centre, target, momentum):
    """The centre after the step: C ← m C + (1 − m) mean of the target's scores, both views together."""
    return momentum * centre + (1 - momentum) * sum(t.mean(dim=0) for t in target) / len(target)
