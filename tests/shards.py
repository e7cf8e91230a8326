"""Shards of small images whose level is their number: tar files and parquet, for tests."""

import io
import json
import tarfile

import datasets
from PIL import Image

BAD = b"not an image"


def png(level):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 6), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder, kind, sizes, bad=(), labels="cls"):
    """One shard of each size; the images are numbered through. Returns the pattern of the files."""
    folder.mkdir(parents=True)
    number = 0
    for shard, size in enumerate(sizes):
        numbers = range(number, number + size)
        number += size
        contents = [BAD if i in bad else png(i) for i in numbers]
        if kind == "parquet":
            features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
            columns = {"image": [{"bytes": x, "path": None} for x in contents], "label": [i % 2 for i in numbers]}
            datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{shard:03}.parquet")
            continue
        with tarfile.open(folder / f"{shard:03}.tar", "w") as file:
            for i, content in zip(numbers, contents):
                label = str(i % 2) if labels == "cls" else json.dumps({"label": "ba"[i % 2], "id": i})
                for name, data in ((f"{i:05}.png", content), (f"{i:05}.{labels}", label.encode()))[
                    : 2 if labels else 1
                ]:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    return str(folder / ("*.parquet" if kind == "parquet" else "*.tar"))
