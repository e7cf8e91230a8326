"""Representations h of every image of a split, as a parquet file that `datasets` loads.

    python recipes/extract_features.py --model runs/my_photos --config runs/my_photos/training_args.json --projector
    python recipes/extract_features.py --model facebook/dinov2-small --dataset_name uoft-cs/cifar10 --split train test

Any encoder that `AutoModel` loads will do. Images are clean, at the size and with the normalisation of its processor;
`--projector` adds the embeddings z of a run. --output_dir then holds SPLIT.parquet with a row for each image, in their
order: `index`, `label` (null where an image has none), `h` and `z` as float32 lists of fixed size. `hf_mi_ssl` in the
schema's metadata says of which encoder, processor and data they are. To load one:

    datasets.load_dataset("parquet", data_files={"train": "runs/my_photos/representations/train.parquet"})
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, List, Value
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_mi_ssl.data import BadImages, ImageReader, Part, load_corpus, storage_size
from hf_mi_ssl.encoders import load_encoder, representation_size
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.evaluation import input_of, represent
from hf_mi_ssl.evaluation.saved import load_saved
from hf_mi_ssl.files import whole
from hf_mi_ssl.modeling_base import MISSLForPreTraining
from hf_mi_ssl.training import (
    DownstreamParser,
    default_output_dir,
    encoder_name,
    parse_arguments,
    run_downstream,
)
from hf_mi_ssl.views import ViewRecipe

SOURCE = ("dataset_name", "data_files", "data_dir", "image_column_name", "label_column_name")
FLAGS = (*SOURCE, "image_size", "dataloader_num_workers", "dataloader_timeout", "on_bad_image", "max_bad_fraction")
GROUP = 16  # batches in a row group


def load(name: str, projector: bool) -> tuple[PreTrainedModel, dict[str, nn.Module]]:
    """The encoder, and what each column makes of h."""
    if not projector:
        return load_encoder(name), {"h": nn.Identity()}
    saved = load_saved(name)
    if not isinstance(saved, MISSLForPreTraining):
        raise UserError(f"{name!r} has no projector: give a run, with its pretraining/, or leave --projector out")
    encoder, projector = saved.branches["online"]
    return encoder, {"h": nn.Identity(), "z": projector}


def revision_of(name: str) -> str | dict[str, str]:
    """The commit of a Hub repository; of a directory, the SHA-256 of its weights by file."""
    if not Path(name).is_dir():
        return Path(try_to_load_from_cache(name, "config.json")).parent.name  # snapshots/<commit>/config.json
    weights = sorted(Path(name).glob("*.safetensors"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}


def schema_of(corpus, widths: dict[str, int], about: dict) -> pa.Schema:
    """The columns, typed for `datasets`, which calls labels by their names."""
    label = ClassLabel(names=corpus.label_names) if corpus.label_names else Value("int64")
    columns = {"index": Value("int64")} | ({"label": label} if corpus.labels is not None else {})
    columns |= {space: List(Value("float32"), length=width) for space, width in widths.items()}
    schema = Features(columns).arrow_schema
    return schema.with_metadata(schema.metadata | {"hf_mi_ssl": json.dumps(about)})


def write(path: Path, schema: pa.Schema, batches: Iterator, labels: Tensor | None, spaces: dict) -> None:
    """The file whole or not at all; no more than a row group is held."""
    with whole(path, "wb") as file, pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        while group := list(islice(batches, GROUP)):
            indices, h = (torch.cat(parts) for parts in zip(*group))
            columns = [pa.array(indices.numpy())]
            if labels is not None:
                columns.append(pa.array(labels[indices].numpy(), mask=(labels[indices] < 0).numpy()))
            for space in spaces.values():
                x = space(h).cpu()
                columns.append(pa.FixedSizeListArray.from_arrays(x.flatten().numpy(), x.shape[1]))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


@torch.no_grad()
def main() -> None:
    parser = DownstreamParser(__doc__, FLAGS)
    parser.add_argument("--output_dir", help="default: representations/ in the encoder's directory")
    parser.add_argument("--split", nargs="+", default=["train"], help="of the data set (default: train)")
    parser.add_argument("--projector", action="store_true", help="embeddings z as well; the encoder is a run's")
    own, left = parser.parse()
    encoder, spaces = load(own.model, own.projector)
    images = input_of(own.model)
    args = parse_arguments(left, __doc__, image_size=images.pop("size", 224))
    output = Path(own.output_dir or default_output_dir(own.model) + "/representations")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for module in (encoder, *spaces.values()):
        module.eval().to(device)
    nothing = torch.zeros(1, representation_size(encoder), device=device)
    widths = {name: space(nothing).shape[1] for name, space in spaces.items()}
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
        write(path, schema_of(corpus, widths, about | of), batches, corpus.labels, spaces)
        print(f"{len(corpus):,} images of {split} written to {path}")


if __name__ == "__main__":
    sys.exit(run_downstream(main))
