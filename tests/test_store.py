"""A store and a reader give the same pixels, and a batch is a pure function of (seed, step, rank)."""

import itertools
import logging
import os

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_mi_ssl.data.bad import BadImages
from hf_mi_ssl.data.corpora import load_corpus
from hf_mi_ssl.data.order import batch_indices, held_out
from hf_mi_ssl.data.placement import open_images, storage_size
from hf_mi_ssl.data.readers import ImageReader
from hf_mi_ssl.data.store import ImageStore
from hf_mi_ssl.errors import UserError

SIZE = 8


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """A batch of the whole epoch."""
    return batch_indices(n, epoch, n, seed)[1]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder of 20 images of different sizes, the lightness of each its number."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(20):
        Image.linear_gradient("L").resize((9 + i, 12)).point(lambda v, i=i: v // 2 + i).save(folder / f"{i:02}.png")
    return load_corpus(str(folder), split="train")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_store_and_reader_give_the_same_pixels_with_any_number_of_workers(corpus, num_workers):
    store = ImageStore.build(corpus, SIZE, "cpu", num_workers)
    reader = ImageReader(corpus, SIZE, "cpu", num_workers)
    assert store.images.shape == (20, 3, SIZE, SIZE)
    assert store.images.dtype == torch.uint8
    assert len(store) == len(reader) == 20
    indices = torch.tensor([19, 3, 3, 0])
    one_by_one = torch.stack([corpus.squares(torch.tensor([i]), SIZE)[0] for i in indices])
    assert torch.equal(store.fetch(indices), one_by_one)
    assert torch.equal(reader.fetch(indices), one_by_one)
    orders = [epoch_order(20, 0, epoch)[:7] for epoch in range(4)]
    for kept, read, order in zip(store.batches(orders), reader.batches(orders), orders, strict=True):
        assert torch.equal(kept[0], order)
        assert torch.equal(read[0], order)
        assert torch.equal(kept[1], read[1])


def test_an_endless_order_can_be_read_in_part(corpus):
    orders = (batch_indices(20, step, 4, seed=0)[1] for step in itertools.count())
    for indices, images in itertools.islice(ImageReader(corpus, SIZE, num_workers=1).batches(orders), 12):
        assert torch.equal(images, corpus.squares(indices, SIZE))


def test_reading_leaves_the_ambient_generator_alone(corpus):
    before = torch.get_rng_state()
    store = ImageStore.build(corpus, SIZE)
    list(ImageReader(corpus, SIZE, num_workers=1).batches([torch.arange(4)]))
    batch_indices(len(store), 3, 4, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_file_in_the_middle_is_named_in_one_line(corpus, num_workers):
    path = corpus.cells([11])[0][1]
    Image.effect_noise((20, 20), 50).save(path)
    os.truncate(path, 200)
    for run in (
        lambda: ImageStore.build(corpus, SIZE, "cpu", num_workers, report=BadImages("error")),
        lambda: list(
            ImageReader(corpus, SIZE, "cpu", num_workers, report=BadImages("error")).batches([torch.arange(20)])
        ),
    ):
        with pytest.raises(UserError, match=r"row 11 \(.*11\.png\): corrupt or truncated") as error:
            run()
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 1


def test_a_corpus_that_does_not_fit_is_read_per_batch_and_the_choice_is_logged(corpus, caplog):
    caplog.set_level(logging.INFO, "hf_mi_ssl.data.placement")
    needed = 20 * 3 * SIZE * SIZE
    assert isinstance(open_images(corpus, SIZE, "cpu", 0, memory_limit=needed), ImageStore)
    assert isinstance(open_images(corpus, SIZE, "cpu", 0, memory_limit=needed - 1), ImageReader)
    assert isinstance(open_images(corpus, SIZE), ImageStore)
    assert [("once" in line, "each batch" in line) for line in caplog.messages] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_labels_come_along(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    corpus = load_corpus("shapes", split="test")
    store = ImageStore.build(corpus, 16)
    assert torch.equal(store.labels, corpus.labels)
    assert torch.equal(store.images[:3], corpus.squares(torch.arange(3), 16))


@pytest.mark.parametrize(("image_size", "size"), [(32, 32), (64, 64), (96, 96), (128, 146), (224, 256)])
def test_small_images_are_kept_at_the_size_of_the_views_and_large_ones_at_eight_sevenths(image_size, size):
    assert storage_size(image_size) == size


# Batches


def test_an_order_is_a_permutation_and_depends_on_seed_and_epoch():
    order = epoch_order(50, seed=1, epoch=2)
    assert torch.equal(order.sort().values, torch.arange(50))
    assert torch.equal(order, epoch_order(50, seed=1, epoch=2))
    assert not torch.equal(order, epoch_order(50, seed=1, epoch=3))
    assert not torch.equal(order, epoch_order(50, seed=2, epoch=2))


def test_what_a_caller_does_to_a_batch_does_not_reach_the_next():
    expected = batch_indices(8, 0, 8, 0)[1].clone()
    batch_indices(8, 0, 8, 0)[1].zero_()
    assert torch.equal(batch_indices(8, 0, 8, 0)[1], expected)


@given(data=st.data(), n=st.integers(1, 60), world=st.integers(1, 4), seed=st.integers(0, 3))
def test_ranks_partition_the_global_batch_and_an_epoch_repeats_no_image(data, n, world, seed):
    if n < world:
        return
    global_batch = world * data.draw(st.integers(1, n // world))
    steps = n // global_batch
    epoch = data.draw(st.integers(0, 3))
    seen = []
    for step in range(epoch * steps, (epoch + 1) * steps):
        whole = batch_indices(n, step, global_batch, seed)
        slices = [batch_indices(n, step, global_batch, seed, rank, world) for rank in range(world)]
        assert {whole[0], *(number for number, _ in slices)} == {epoch}
        assert torch.equal(torch.cat([indices for _, indices in slices]), whole[1])
        seen.append(whole[1])
    seen = torch.cat(seen)
    assert torch.equal(seen, epoch_order(n, seed, epoch)[: len(seen)])
    assert len(seen.unique()) == steps * global_batch > n - global_batch


def test_a_step_does_not_depend_on_the_steps_before():
    alone = batch_indices(100, 57, 16, seed=5)
    for step in range(58):
        walked = batch_indices(100, step, 16, seed=5)
    assert alone[0] == walked[0] == 57 // 6
    assert torch.equal(alone[1], walked[1])


def test_batches_that_are_impossible_say_so_with_both_numbers():
    with pytest.raises(UserError, match="batch of 64 images is larger than the 20 images .* lower --per_device"):
        batch_indices(20, 0, 64, seed=0)
    with pytest.raises(UserError, match="global batch of 10 is not divisible by 4 processes"):
        batch_indices(20, 0, 10, seed=0, world=4)


# Holding out


def test_held_out_is_a_pure_partition():
    kept, out = held_out(100, 0.1, seed=3)
    assert (len(kept), len(out)) == (90, 10)
    assert torch.equal(torch.cat((kept, out)).sort().values, torch.arange(100))
    assert torch.equal(out, held_out(100, 0.1, seed=3)[1])
    assert not torch.equal(out, held_out(100, 0.1, seed=4)[1])
    assert len(held_out(3, 0.01, seed=0)[1]) == 1


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.0), (10, 1.0), (10, 0.96), (1, 0.5)])
def test_nothing_left_to_keep_is_an_error(n, fraction):
    with pytest.raises(UserError, match=f"cannot hold out the fraction {fraction} of {n} images"):
        held_out(n, fraction, seed=0)


# A real corpus, where there is one


@pytest.mark.skipif("HF_MI_SSL_DATA" not in os.environ, reason="HF_MI_SSL_DATA names no folder of real corpora")
def test_cifar10_in_parquet_is_decoded_as_it_is():
    file = os.path.join(os.environ["HF_MI_SSL_DATA"], "cifar10", "test.parquet")
    corpus = load_corpus("parquet", data_files={"test": file}, split="test")
    store = ImageStore.build(corpus, 32, "cpu", 2)
    assert store.images.shape == (10_000, 3, 32, 32)
    assert len(corpus.label_names) == 10
    assert store.images.float().mean((0, 2, 3)) / 255 == pytest.approx([0.494, 0.485, 0.450], abs=0.01)
