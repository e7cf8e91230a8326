"""Representations of a whole split as a parquet file that `datasets` loads."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..encoders import load_encoder, representation_size
from ..errors import UserError
from ..files import digest, whole
from ..modeling_base import MISSLForPreTraining
from .saved import load_saved

GROUP = 16  # batches in a row group


def load_spaces(name: str, projector: bool) -> tuple[PreTrainedModel, dict[str, nn.Module]]:
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
    return {file.name: digest(file, "sha256") for file in weights}


@torch.no_grad()
def widths_of(encoder: PreTrainedModel, spaces: dict[str, nn.Module]) -> dict[str, int]:
    """The numbers of each column."""
    nothing = torch.zeros(1, representation_size(encoder), device=encoder.device)
    return {name: space(nothing).shape[1] for name, space in spaces.items()}


def schema_of(corpus, widths: dict[str, int], about: dict) -> pa.Schema:
    """The columns, typed for `datasets`, which calls labels by their names."""
    from datasets import ClassLabel, Features, List, Value

    label = ClassLabel(names=corpus.label_names) if corpus.label_names else Value("int64")
    columns = {"index": Value("int64")} | ({"label": label} if corpus.labels is not None else {})
    columns |= {space: List(Value("float32"), length=width) for space, width in widths.items()}
    schema = Features(columns).arrow_schema
    return schema.with_metadata(schema.metadata | {"hf_mi_ssl": json.dumps(about)})


@torch.no_grad()
def write_features(path: Path, schema: pa.Schema, batches: Iterator, labels: Tensor | None, spaces: dict) -> None:
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
