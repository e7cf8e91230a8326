"""A method of one's own: the file that its guide shows, as a user runs it, and the mistakes that one may hold."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForPreTraining

from hf_mi_ssl import cli
from hf_mi_ssl.methods import METHODS, import_file
from hf_mi_ssl.mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS, Pairs
from tests.runs import FAST, data, log_of, run

GUIDE = (Path(__file__).resolve().parent.parent / "recipes" / "guides" / "adding_a_method.md").read_text()
SOURCE = re.search(r"```python\n(.*?)```", GUIDE, re.DOTALL)[1]


@pytest.fixture
def forgotten():
    """What a file registers is gone after the test: others go through every row and every term."""
    registries = (METHODS, CRITICS, JOINT_TERMS, MARGINAL_TERMS)
    before = [dict(registry) for registry in registries]

    def forget():
        for registry, content in zip(registries, before):
            registry.clear()
            registry.update(content)

    yield forget
    forget()


@pytest.fixture
def my_method(tmp_path, forgotten) -> Path:
    path = tmp_path / "my_method.py"
    path.write_text(SOURCE)
    return path


def methods_command(monkeypatch, *argv) -> int:
    monkeypatch.setattr(sys, "argv", ["hf-mi-ssl", "methods", *map(str, argv)])
    return cli.main()


def test_the_file_in_the_readme_is_short():
    assert len(SOURCE.splitlines()) < 40


def test_its_term_is_its_formula(my_method):
    import_file(str(my_method))
    a, b = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = [torch.cdist(z, z).fill_diagonal_(torch.inf).min(1).values for z in (F.normalize(a), F.normalize(b))]
    expected = -sum(d.log().mean() for d in distances) / 2
    torch.testing.assert_close(MARGINAL_TERMS["koleo"](Pairs(a, b, CRITICS["cosine"])), expected, rtol=0, atol=1e-4)
    same = torch.ones(5, 4, requires_grad=True)
    MARGINAL_TERMS["koleo"](Pairs(same, same, CRITICS["cosine"])).backward()
    assert same.grad.isfinite().all()


def test_a_row_of_ones_own_trains_is_logged_and_stands_on_the_card(my_method, forgotten, flat, tmp_path):
    output = tmp_path / "run"
    assert run("jmi", output, *data(flat), *FAST, "--import", my_method, "--method", "koleo") == 0
    steps = [record for record in log_of(output) if "loss" in record]
    assert len(steps) == 14
    for record in steps:
        assert record["value"] == pytest.approx(record["joint/expected_score"] - record["marginal/koleo"], abs=1e-5)
    card = (output / "README.md").read_text().replace("\\", "")
    assert "| marginal | koleo | 1 | M = −½ Σ_z mean_i log min_{j≠i} ‖z_i − z_j‖, z = a/‖a‖ and b/‖b‖ |" in card
    assert METHODS["koleo"].relations in card
    assert "its value is not a bound on mutual information" in card
    assert "https://arxiv.org/abs/1806.03198" in card
    assert "my_method.py" not in card

    forgotten()  # as on another machine: the encoder asks for nothing, the whole model for the file
    AutoModel.from_pretrained(output)
    with pytest.raises(StrictDataclassError, match="unknown marginal term 'koleo'"):
        AutoModelForPreTraining.from_pretrained(output, subfolder="pretraining")
    import_file(str(my_method))
    assert AutoModelForPreTraining.from_pretrained(output, subfolder="pretraining").config.method == "koleo"


def test_its_row_is_printed_in_full_and_in_the_table(my_method, monkeypatch, capsys):
    assert methods_command(monkeypatch, "--import", my_method, "koleo") == 0
    printed = capsys.readouterr().out
    assert "koleo (JMI, arXiv 1806.03198): L = expected_score − koleo\nJ − M is a surrogate" in printed
    assert "Relations: align_uniform, " in printed
    assert "def koleo(p: Pairs)" in printed
    assert methods_command(monkeypatch, "--import", my_method) == 0  # a second time: the same row
    assert "\nkoleo " in capsys.readouterr().out


MISTAKES = {
    "a docstring without its formula": ("M = −½", "the mean of", "must begin with its formula: 'M = …'"),
    "the name of a term": ("def koleo", "def exact", "'exact' exists already, in hf_mi_ssl.mi.marginal"),
    "the name of a method": ('    "koleo",', '    "simclr",', "there is a method 'simclr' already"),
    "no kind": ('"surrogate"', '"perhaps"', "must be a 'bound' or a 'surrogate', not 'perhaps'"),
    "a file that raises": ("jmi(\n", "1 / 0\n\njmi(\n", "ZeroDivisionError: division by zero"),
    "a file that is no Python": ("def koleo", "def koleo koleo", "SyntaxError: "),
}


@pytest.mark.parametrize(("right", "wrong", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_costs_one_line_and_exit_code_2(
    right, wrong, said, my_method, tmp_path, monkeypatch, capsys
):
    assert SOURCE.count(right) == 1
    my_method.write_text(SOURCE.replace(right, wrong))
    assert run("jmi", tmp_path / "run", "--import", my_method, "--method", "koleo") == 2
    assert methods_command(monkeypatch, "--import", my_method, "koleo") == 2
    recipe, command = capsys.readouterr().err.splitlines()
    assert recipe.startswith(f"pretrain_jmi.py: --import {my_method}: ")
    assert command.startswith(f"hf-mi-ssl methods: --import {my_method}: ")
    assert said in recipe
    assert said in command
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_costs_one_line(tmp_path, monkeypatch, capsys):
    absent = tmp_path / "absent.py"
    assert run("jmi", tmp_path / "run", "--import", absent, "--method", "koleo") == 2
    assert methods_command(monkeypatch, "--import", absent) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(line.endswith(f"--import {absent}: there is no such Python file (.py)") for line in errors)


def test_a_method_that_no_file_adds_is_unknown(tmp_path, capsys):
    assert run("jmi", tmp_path / "run", "--method", "koleo") == 2
    assert "unknown method 'koleo'" in capsys.readouterr().err
