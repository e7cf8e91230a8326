"""Archives of strangers: members with names that lead out of them, and links, write and read nothing elsewhere."""

import io
import tarfile
import zipfile

import datasets
import pytest
import torch

from hf_mi_ssl.data import load_corpus, open_train_and_held_out
from tests.shards import png

GOOD = 40  # images with names of their own
OUTSIDE = "../../../outside.png"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory three below `tmp_path`, and what lies there; a picture that is nobody's business beside them."""
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / "cache" / name))
    (tmp_path / "secret.png").write_bytes(png(200))
    deep = tmp_path / "one" / "two" / "three"
    deep.mkdir(parents=True)
    return deep


def tar_of(place, absolute):
    def link(kind):
        member = tarfile.TarInfo(f"z{kind.decode()}.png")
        member.type, member.linkname = kind, str(place.parents[2] / "secret.png")
        return member

    with tarfile.open(place / "evil.tar", "w") as archive:
        for name in (*(f"{i:03}.png" for i in range(GOOD)), OUTSIDE, absolute):
            member, content = tarfile.TarInfo(name), png(7)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            archive.addfile(link(kind))
    return {"dataset_name": "webdataset", "data_files": {"train": [str(place / "evil.tar")]}}


def zip_of(place, absolute):
    with zipfile.ZipFile(place / "evil.zip", "w") as archive:
        for name in (*(f"{i:03}.png" for i in range(GOOD)), OUTSIDE, absolute):
            archive.writestr(name, png(7))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(place.parents[2] / "secret.png"))
    return {"dataset_name": "imagefolder", "data_files": {"train": [str(place / "evil.zip")]}}


def written(root):
    return {path for path in root.rglob("*") if "cache" not in path.parts and path.is_file()}


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_an_archive_writes_nothing_elsewhere_and_its_links_are_not_followed(make, place, tmp_path):
    absolute = tmp_path / "absolute.png"
    source = make(place, str(absolute))
    before = written(tmp_path)
    corpus, bad = load_corpus(split="train", **source), {}
    levels = corpus.squares(torch.arange(len(corpus)), 6, bad).flatten(1).amax(1)
    assert written(tmp_path) == before
    assert not absolute.exists()
    assert not [*tmp_path.rglob("outside.png")]
    if make is tar_of:  # members are read where they are, whatever their names; links are none of them
        assert not bad
        assert levels.tolist() == [7] * (GOOD + 2)
    else:  # addresses within a file, which are never followed
        assert {row.kind for row in bad.values()} == {"foreign path"}
        assert len(bad) == len(corpus) >= GOOD


def test_nor_when_it_is_streamed(place, tmp_path):
    source = tar_of(place, str(tmp_path / "absolute.png"))
    before = written(tmp_path)
    train, held = open_train_and_held_out(
        train_split="train", eval_split=None, image_size=6, seed=0, device=torch.device("cpu"), num_workers=0,
        streaming=True, shuffle_buffer_size=8, **source,
    )  # fmt: skip
    batches = train.stream.batches(4)
    seen = [next(batches)[1].amax().item() for _ in range(30)]
    assert {*seen} == {7}
    assert held.images.fetch(held.indices).amax() == 7
    assert written(tmp_path) == before
