"""The README tells the truth: its table is made from the rows, its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

from hf_mi_ssl import errors
from hf_mi_ssl.encoders import ENCODERS
from hf_mi_ssl.methods import METHODS, markdown_table
from hf_mi_ssl.training import parse_arguments

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")
# `test_import` runs what imports a file.
LAUNCHES = [line for line in BLOCKS.splitlines() if "recipes/pretrain_" in line and "--import" not in line]


def test_the_table_of_methods_is_the_one_that_the_rows_make():
    between = re.search(r"<!-- methods:.*?-->\n(.*?)<!-- /methods -->", README, re.DOTALL)[1]
    assert between.strip() == markdown_table()


def test_the_table_of_exit_codes_is_the_one_list_of_them():
    between = re.search(r"<!-- exit codes:.*?-->\n(.*?)<!-- /exit codes -->", README, re.DOTALL)[1]
    assert between.strip() == errors.markdown_table()


def test_the_table_has_as_many_cells_in_each_line_and_the_relations_of_every_row():
    table, _, relations = markdown_table().partition("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {8}
    assert len(table.splitlines()) == len(METHODS) + 2
    for name, row in METHODS.items():
        assert f"\n- `{name}`: {row.relations}." in relations


@pytest.mark.parametrize("line", LAUNCHES)
def test_the_recipes_understand_every_launch_line(line, monkeypatch):
    recipe, *flags = [
        word for word in shlex.split(line[line.index("recipes/pretrain_") :], comments=True) if word != "…"
    ]
    assert (ROOT / recipe).is_file()
    monkeypatch.chdir(ROOT)  # where the configurations are
    args = parse_arguments(flags, "", method="sdmi" if "sdmi" in recipe else "jmi")
    assert METHODS[args.method].paradigm in recipe


def test_the_tree_has_a_line_for_every_file():
    tree = README[README.index("## The tree") :]
    for path in sorted((ROOT / "hf_mi_ssl").rglob("*.py")):
        name = path.relative_to(ROOT / "hf_mi_ssl")
        if name.name in ("__init__.py", "version.py") or name.stem.endswith("mi_resnet"):
            continue
        assert f"{name.name}  " in tree or f"{name} " in tree, f"{name} is missing from the tree"
    for line in re.findall(r"^    {2,6}(\S+\.py) ", tree, re.MULTILINE):
        assert list((ROOT / "hf_mi_ssl").rglob(Path(line).name)), f"{line} of the tree does not exist"


def test_every_encoder_is_named():
    assert all(f"`{name}`" in README for name in ENCODERS)
