"""The lines that a run prints: aligned, one for each evaluation, with what there is."""

import pytest

from hf_mi_ssl.training.progress import ProgressTable


@pytest.fixture
def lines(capsys):
    """What is printed of a run of two evaluations, the second without labels."""
    progress = ProgressTable()
    mi = {
        "eval/mi/cos_dv": -0.02,
        "eval/mi/cos_dv/low": -0.05,
        "eval/mi/cos_dv/high": 0.01,
        "eval/mi/cos_dv/ceiling": 4.9,
    }
    progress({"step": 0, "epoch": 0.0, "eval/rank/rankme": 46.62, "eval/knn_top1": 0.225} | mi)
    for step, value in ((1, 0.5), (2, None), (3, 1.5)):
        progress({"step": step, "loss": 0, "value": value, "images_per_second": 1234.5})
    progress({"step": 12_000, "epoch": 7.8125, "eval/rank/rankme": 101.0})
    return capsys.readouterr().out.splitlines()


def test_each_evaluation_is_a_line_under_one_heading(lines):
    heading, first, second = lines
    assert " ".join(heading.split()) == "step epoch J − M MI of z, nats ceiling RankMe kNN images/s"
    assert " ".join(first.split()) == "0 0 -0.02 (-0.05 to 0.01) 4.90 46.6 22.5 %"
    assert " ".join(second.split()) == "12,000 7.812 1 101.0 1,234"  # 1: the mean of 0.5 and 1.5


def test_columns_end_where_their_headings_do(lines):
    heading, first, second = lines
    for name, one, other in (("step", "0", "12,000"), ("RankMe", "46.6", "101.0"), ("epoch", "0", "7.812")):
        end = heading.index(name) + len(name)
        assert first[:end].endswith(one)
        assert second[:end].endswith(other)
