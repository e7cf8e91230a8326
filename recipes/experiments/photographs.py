"""Photographs as a source: two random views of each, of a law that nobody knows."""

import json
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from views import Source, Views

from hf_mi_ssl.errors import UserError

FILES = "CIFAR10_FILES"  # environment: its parquet files, as JSON; where data lie is no argument of a run


def cifar10(images: int = 7680, recipe: str = "moco", size: int = 32) -> Source:
    """Two random views of a photograph, as the recipes train on them: of `images` of train, in each epoch in an order
    and with views of its own; held-out pairs are of test. I is unknown."""
    from hf_mi_ssl.views import RandomViews, view_recipes

    def draw_of(split: str, most: int):
        def draw(n: int, generator: Generator) -> Views:
            corpus = _corpus(split)
            rows = torch.randperm(len(corpus), generator=generator)[: min(n, most)]
            seed = int(torch.randint(2**31, (), generator=generator))
            squares, make = corpus.squares(rows, size), RandomViews(view_recipes(recipe, size), seed, batch_size=512)
            a, b = torch.empty(2, n, 3, size, size)
            content = torch.empty(n, dtype=torch.long)
            for epoch, start in enumerate(range(0, n, len(rows))):
                order = torch.randperm(len(rows), generator=generator)[: n - start]
                part = slice(start, start + len(order))
                a[part], b[part] = make(squares[order], epoch, rows[order])
                content[part] = corpus.labels[rows[order]]
            return Views(a, b, {"content": content})

        return draw

    return Source(draw_of("train", images), lambda: math.nan, [], 10, draw_of("test", images))


def take_from(pairs: Sequence[str]) -> None:
    """Read these files, SPLIT=FILE each, here and in processes that are started from here; not the Hub."""
    files = dict(pair.partition("=")[::2] for pair in pairs)
    if {*files} != {"train", "test"}:
        raise UserError("--data_files takes train=FILE test=FILE")
    if missing := [file for file in files.values() if not Path(file).is_file()]:
        raise UserError(f"--data_files: there is no file {missing[0]}")
    os.environ[FILES] = json.dumps(files)


@cache
def _corpus(split: str) -> Any:
    from hf_mi_ssl.data import load_corpus

    files = json.loads(os.environ.get(FILES, "null"))
    return load_corpus("parquet" if files else "uoft-cs/cifar10", data_files=files, split=split)
