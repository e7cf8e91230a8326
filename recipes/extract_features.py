"""Representations h of every image of a split, as a parquet file that `datasets` loads.

    python recipes/extract_features.py --model runs/my_photos --config runs/my_photos/training_args.json --projector
    python recipes/extract_features.py --model facebook/dinov2-small --dataset_name uoft-cs/cifar10 --split train test

Any encoder that `AutoModel` loads will do. Images are clean, at the size and with the normalisation of its processor;
`--projector` adds the embeddings z of a run. --output_dir then holds SPLIT.parquet with a row for each image, in their
order: `index`, `label` (null where an image has none), `h` and `z` as float32 lists of fixed size. `hf_mi_ssl` in the
schema's metadata says of which encoder, processor and data they are. To load one:

    datasets.load_dataset("parquet", data_files={"train": "runs/my_photos/representations/train.parquet"})
"""

import sys
from pathlib import Path

from hf_mi_ssl.training import DownstreamParser, arguments_of, default_output_dir, encoder_name, run_downstream

SOURCE = ("dataset_name", "data_files", "data_dir", "image_column_name", "label_column_name")
FLAGS = (*SOURCE, "dataloader_num_workers", "dataloader_timeout", "on_bad_image", "max_bad_fraction")


def main() -> None:
    parser = DownstreamParser(__doc__, FLAGS, output_dir="representations/ in the encoder's directory")
    parser.add_argument("--split", nargs="+", default=["train"], help="of the data set (default: train)")
    parser.add_argument("--projector", action="store_true", help="embeddings z as well; the encoder is a run's")
    own, left = parser.parse()
    # What takes seconds to import, now that the arguments are known to be right.
    import torch

    from hf_mi_ssl.data import BadImages, ImageReader, Part, load_corpus, storage_size
    from hf_mi_ssl.evaluation import input_of, represent
    from hf_mi_ssl.evaluation.features import load_spaces, revision_of, schema_of, widths_of, write_features
    from hf_mi_ssl.views import ViewRecipe

    encoder, spaces = load_spaces(own.model, own.projector)
    images = input_of(own.model)
    output = Path(own.output_dir or default_output_dir(own.model) + "/representations").expanduser()
    args = arguments_of(own, left, __doc__, images.pop("size", 224), output)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for module in (encoder, *spaces.values()):
        module.eval().to(device)
    widths = widths_of(encoder, spaces)
    recipe = ViewRecipe(size=args.image_size, **images)
    about = {"encoder": encoder_name(own.model), "revision": revision_of(own.model)}
    about |= {"processor": {"size": recipe.size, "crop": "centre square", "mean": recipe.mean, "std": recipe.std}}

    for split in own.split:
        corpus = load_corpus(split=split, **{key: args.data_arguments()[key] for key in SOURCE})
        how = args.dataloader_num_workers, args.dataloader_timeout, BadImages(args.on_bad_image, args.max_bad_fraction)
        images = ImageReader(corpus, storage_size(args.image_size), device, *how)
        batches = represent(encoder, Part(images, torch.arange(len(corpus)), split), recipe)
        of = {"dataset": corpus.name, "split": split, "fingerprint": corpus.fingerprint}
        path = output / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, schema_of(corpus, widths, about | of), batches, corpus.labels, spaces)
        print(f"{len(corpus):,} images of {split} written to {path}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
