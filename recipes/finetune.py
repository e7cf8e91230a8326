"""A classifier that starts from an encoder, fine-tuned on all labels or on few, and its accuracy.

    python recipes/finetune.py --model runs/my_photos --config runs/my_photos/training_args.json     # its own data
    python recipes/finetune.py --model facebook/dinov2-small --dataset_name uoft-cs/cifar10 \\
        --label_fraction 0.01 --learning_rate 1e-3 1e-4 --num_train_epochs 30 60

Any encoder that `AutoModel` loads, and for which transformers has an image classifier, will do. The head is new; the
encoder learns along with it, unless `--freeze_encoder`; `--random_encoder` takes one of the same kind at random, to
compare with. Of several learning rates and numbers of epochs a tenth of the
labels chooses, then all of them are learnt with those, and what is held out is asked once. --output_dir then holds
the classifier, for `pipeline("image-classification", …)`, and `finetune.json`, whose `evaluations` are rows as in the
`results.json` of a run, those of other seeds and settings beside each other; the classifier is that of the last. If
the encoder is a run's, its card has them as well, and what it held out stays held out, whatever `--seed` is. No
checkpoints are kept on the way.
"""

import math
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import DownstreamParser, arguments_of, default_output_dir, run_downstream

if TYPE_CHECKING:
    from hf_mi_ssl.data import Part

CARD = Path(__file__).resolve().parent.parent / "model_cards" / "pretraining_card.md"
CROPS_AND_FLIPS = {"crop_scale": (0.08, 1.0), "jitter_probability": 0.0, "grayscale": 0.0}
FLAGS = {
    "label_fraction": (1.0, float, "share of the labels to learn from, class-balanced"),
    "learning_rate": ([3e-4], float, "peak learning rate; of several, a tenth of the labels chooses"),
    "num_train_epochs": ([30], int, "passes over the images; of several, a tenth of the labels chooses"),
    "per_device_train_batch_size": (64, int, "images per process and step"),
    "weight_decay": (0.05, float, "of AdamW; norms and biases have none"),
}


def parse():
    parser = DownstreamParser(__doc__, output_dir="that of the encoder, of a Hub id runs/NAME, and -finetuned")
    for flag, (default, kind, help) in FLAGS.items():
        nargs = {"nargs": "+"} if isinstance(default, list) else {}
        parser.add_argument(f"--{flag}", type=kind, default=default, help=f"{help} (default: %(default)s)", **nargs)
    parser.add_argument("--freeze_encoder", action="store_true", help="only the head learns")
    parser.add_argument("--random_encoder", action="store_true", help="start from one of the same kind at random")
    own, left = parser.parse()
    if not min(*own.learning_rate, *own.num_train_epochs, own.per_device_train_batch_size) > 0:
        raise UserError("--learning_rate, --num_train_epochs and --per_device_train_batch_size must be above 0")
    if own.weight_decay < 0:
        raise UserError(f"--weight_decay must not be negative, got {own.weight_decay:g}")
    return own, left


def main() -> None:
    own, left = parse()
    # What takes seconds to import, now that the arguments are known to be right.
    from accelerate import PartialState

    from hf_mi_ssl.data import open_train_and_held_out
    from hf_mi_ssl.encoders import build_encoder, load_encoder
    from hf_mi_ssl.evaluation import accuracy_interval, input_of, selection_split
    from hf_mi_ssl.hub import export_encoder, update_card, write_evidence
    from hf_mi_ssl.training import build_seeded, classes_of, data_of, evidence_of, fine_tune, score
    from hf_mi_ssl.views import ViewRecipe

    encoder, images = load_encoder(own.model), input_of(own.model)
    start, ending = ("random", "-random") if own.random_encoder else ("trained", "")
    output = Path(own.output_dir or f"{Path(default_output_dir(own.model))}-finetuned{ending}").expanduser()
    args = arguments_of(own, left, __doc__, images.pop("size", 224), output)
    if own.random_encoder:
        encoder = build_seeded(args.seed, build_encoder, encoder.config)
    earlier = (output / "finetune.json").exists() and not (output / "results.json").exists()
    if output.resolve() == Path(own.model).resolve() or ((output / "config.json").exists() and not earlier):
        raise UserError(f"{output} holds another model: give the classifier an --output_dir of its own")

    state = PartialState()
    data = data_of(own.model, args)
    recipe = ViewRecipe(size=args.image_size, **CROPS_AND_FLIPS, **images)
    whole, test = (part.labelled() for part in open_train_and_held_out(**data, device=state.device))
    classes, names = classes_of(whole, test)
    train = whole.few_labels(own.label_fraction, args.seed)
    settings = {"freeze_encoder": own.freeze_encoder, "batch_size": own.per_device_train_batch_size, "seed": args.seed}
    settings |= {"weight_decay": own.weight_decay, "output_dir": str(output)}

    def fit(part: "Part", learning_rate: float, epochs: int):
        rest = settings | {"learning_rate": learning_rate, "num_train_epochs": epochs}
        return fine_tune(encoder, part, classes, names, recipe, **rest)

    chosen, *others = candidates = list(product(own.learning_rate, own.num_train_epochs))
    if others:
        if len(train) < 20:
            raise UserError(f"a tenth of {len(train)} labels is too little to choose by: give one value of each flag")
        asked = selection_split(train.labels, args.seed)
        fitted, choosing = (replace(train, indices=train.indices[mask]) for mask in (~asked, asked))
        found = {candidate: score(fit(fitted, *candidate), choosing, classes, recipe) for candidate in candidates}
        for (rate, epochs), (correct, loss) in found.items():
            state.print(f"learning rate {rate:g}, {epochs} epochs: {correct} of {len(choosing)}, loss {loss:.4f}")
        chosen = max(found, key=lambda one: (found[one][1] < math.inf, found[one][0], -found[one][1]))
    model = fit(train, *chosen)
    (correct, loss), n = score(model, test, classes, recipe), len(test)
    if loss == math.inf:
        raise UserError(f"training diverged: try a --learning_rate below {chosen[0]:g}", exit_code=1)
    if not state.is_main_process:
        return

    low, high = accuracy_interval(correct, n)
    share = f"_{100 * own.label_fraction:g}pct".replace(".", "p") if own.label_fraction < 1 else ""
    name = f"finetune_{'frozen_' if own.freeze_encoder else ''}top1{share}"
    learnt = "new linear head on the frozen encoder" if own.freeze_encoder else "encoder and a new linear head"
    learnt += ", both from random weights" if own.random_encoder else ""
    batch = state.num_processes * own.per_device_train_batch_size
    how = "chosen on a stratified 10 % of them, refitted on all; " if others else ""
    rates, epochs = (" or ".join(f"{one:g}" for one in tried) for tried in (own.learning_rate, own.num_train_epochs))
    protocol = (
        f"{learnt}, {len(train):,} labelled images of {train.split}; random crops and flips; AdamW, learning rate "
        f"{rates}, weight decay {own.weight_decay:g}, {epochs} epochs, batches of {batch}, cosine; {how}test used once"
    )
    row = {"name": name, "value": correct / n, "low": low, "high": high, "n": n, "split": test.split}
    row |= {"protocol": protocol, "encoder": start, "branch": "online", "label_fraction": own.label_fraction}
    row["settings"] = {flag: getattr(own, flag) for flag in (*FLAGS, "freeze_encoder")}
    row["chosen"] = dict(zip(("learning_rate", "num_train_epochs"), chosen))
    export_encoder(model, output, image_size=recipe.size, mean=recipe.mean, std=recipe.std)
    print(f"{name} {correct / n:.4f} ({low:.4f} to {high:.4f}): {protocol}")
    print(f"chosen: learning rate {chosen[0]:g}, {chosen[1]} epochs")
    write_evidence(output / "finetune.json", evidence_of(own.model, args, state.device, [row]))
    update_card(own.model, output / "finetune.json", CARD)
    print(f"written to {output}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
