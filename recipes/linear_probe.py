"""Accuracy of a linear classifier on a frozen encoder, beside ridge regression in closed form to check it.

    python recipes/linear_probe.py --model runs/my_photos --config runs/my_photos/training_args.json   # its own data
    python recipes/linear_probe.py --model facebook/dinov2-small --dataset_name uoft-cs/cifar10

Any encoder that `AutoModel` loads will do. Images are clean, at the size and with the normalisation of the encoder's
image processor, and pass through it once. All learning rates are trained at once; a tenth of train chooses one, all of
train is fitted again with it, and what is held out is asked once. Ridge regression is treated alike, with nothing to
converge: a linear_top1 far below ridge_top1 has not. What a run held out stays held out, whatever `--seed` is. Writes
`linear_probe.json` into --output_dir: its `evaluations` are rows as in the `results.json` of a run, with the learning
rate or the penalty that was `chosen`, those of other seeds beside each other.
"""

import sys
from pathlib import Path

from hf_mi_ssl.training import (
    DownstreamParser,
    arguments_of,
    data_of,
    evidence_of,
    output_of,
    run_downstream,
)

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"


def main() -> None:
    own, left = DownstreamParser(__doc__).parse()
    # What takes seconds to import, now that the arguments are known to be right.
    import torch

    from hf_mi_ssl import metrics
    from hf_mi_ssl.encoders import load_encoder
    from hf_mi_ssl.evaluation import input_of, represent_splits
    from hf_mi_ssl.hub import update_card, write_evidence

    encoder, images = load_encoder(own.model), input_of(own.model)
    output = output_of(own)
    args = arguments_of(own, left, __doc__, images.pop("size", 224), output)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = represent_splits(encoder, **data_of(own.model, args), **images, device=device)

    learns = {"train": train.h.to(device), "train_labels": train.labels, "seed": args.seed}
    probe = metrics.load("linear_probe")
    found = probe.compute(predictions=test.h.numpy(), references=test.labels.numpy(), **learns)

    about = {"split": test.split, "encoder": "trained", "branch": "online"}
    rows = [{"name": name} | measured | about for name, measured in found.items()]

    print(f"{own.model} on {args.dataset_name}: {len(test.h):,} images of {test.split}, {args.image_size} pixels")
    for row in rows:
        print(f"{row['name']} {row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f}): {row['protocol']}")
    print("chosen: learning rate {linear_top1[chosen]:g}, penalty {ridge_top1[chosen]:g}".format(**found))
    path = output / "linear_probe.json"
    write_evidence(path, evidence_of(own.model, args, device, rows))
    update_card(own.model, path, CARD)
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
