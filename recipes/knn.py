"""Nearest-neighbour accuracy of a frozen encoder, without any training, and how many directions it uses.

    python recipes/knn.py --model runs/my_photos --config runs/my_photos/training_args.json   # its own data
    python recipes/knn.py --model facebook/dinov2-small --dataset_name uoft-cs/cifar10 --seed 1

Any encoder that `AutoModel` loads will do. Labelled images of the train split vote, those of what is held out are
asked, once; both as clean images, at the size and with the normalisation of the encoder's image processor. What a run
held out stays held out, whatever `--seed` is. Writes `knn.json` into --output_dir: its `evaluations` are rows as in
the `results.json` of a run, those of other seeds and protocols beside each other.
"""

import math
import sys
from pathlib import Path

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import (
    DownstreamParser,
    arguments_of,
    data_of,
    evidence_of,
    output_of,
    run_downstream,
)

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"
RANK_IMAGES = 4096  # at most: uniformity compares all with all


def main() -> None:
    parser = DownstreamParser(__doc__)
    parser.add_argument("--k", type=int, default=20, help="neighbours that vote (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes' weights (default: %(default)s)")
    own, left = parser.parse()
    if own.k < 1 or not own.temperature > 0:
        raise UserError(f"--k {own.k} and --temperature {own.temperature:g} must be above 0")
    # What takes seconds to import, now that the arguments are known to be right.
    import torch

    from hf_mi_ssl import metrics
    from hf_mi_ssl.counter import permutation
    from hf_mi_ssl.encoders import load_encoder
    from hf_mi_ssl.evaluation import input_of, represent_splits
    from hf_mi_ssl.hub import update_card, write_evidence

    encoder, images = load_encoder(own.model), input_of(own.model)
    output = output_of(own)
    args = arguments_of(own, left, __doc__, images.pop("size", 224), output)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = represent_splits(encoder, **data_of(own.model, args), **images, device=device)

    votes = {"train": train.h.to(device), "train_labels": train.labels, "k": own.k, "temperature": own.temperature}
    found = metrics.load("knn").compute(predictions=test.h.numpy(), references=test.labels.numpy(), **votes)
    some = test.h[permutation(len(test.h), "rank", args.seed)[:RANK_IMAGES]]
    ranks = metrics.load("rank").compute(data=some.numpy())

    unknown = {"low": None, "high": None, "n": len(some), "protocol": "representations h of clean images"}
    found |= {f"rank_h/{name}": {"value": value} | unknown for name, value in ranks.items() if math.isfinite(value)}
    about = {"split": test.split, "encoder": "trained", "branch": "online"}
    rows = [{"name": name} | measured | about for name, measured in found.items()]
    top1 = rows[0]
    print(f"{own.model} on {args.dataset_name}: {top1['n']:,} images of {test.split}, {args.image_size} pixels")
    print(f"knn_top1 {top1['value']:.4f} ({top1['low']:.4f} to {top1['high']:.4f}): {top1['protocol']}")
    for row in rows[1:]:
        print(f"{row['name']} {row['value']:.4g}")
    path = output / "knn.json"
    write_evidence(path, evidence_of(own.model, args, device, rows))
    update_card(own.model, path, CARD)
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
