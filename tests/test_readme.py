"""README and guides tell the truth: tables are made from what they list, the tree is the tree."""

import re
from pathlib import Path

from hf_mi_ssl import errors
from hf_mi_ssl.encoders import ENCODERS
from hf_mi_ssl.methods import METHODS, markdown_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
LONG_RUNS = (ROOT / "recipes" / "guides" / "long_runs.md").read_text()


def test_the_table_of_methods_is_the_one_that_the_rows_make():
    between = re.search(r"<!-- methods:.*?-->\n(.*?)<!-- /methods -->", README, re.DOTALL)[1]
    assert between.strip() == markdown_table()


def test_the_table_of_exit_codes_is_the_one_list_of_them():
    between = re.search(r"<!-- exit codes:.*?-->\n(.*?)<!-- /exit codes -->", LONG_RUNS, re.DOTALL)[1]
    assert between.strip() == errors.markdown_table()


def test_the_table_has_as_many_cells_in_each_line_and_the_relations_of_every_row():
    table, _, relations = markdown_table().partition("\n\n")
    assert {line.count("|") for line in table.splitlines()} == {8}
    assert len(table.splitlines()) == len(METHODS) + 2
    for name, row in METHODS.items():
        assert f"\n- `{name}`: {row.relations}." in relations


def test_the_tree_has_a_line_for_every_file():
    tree = README[README.index("## The tree") :]
    for path in sorted((ROOT / "hf_mi_ssl").rglob("*.py")):
        name = path.relative_to(ROOT / "hf_mi_ssl")
        if name.name in ("__init__.py", "version.py") or name.stem.endswith("mi_resnet"):
            continue
        assert f"{name.name}  " in tree or f"{name} " in tree, f"{name} is missing from the tree"
    for line in re.findall(r"^    {2,6}(\S+\.py) ", tree, re.MULTILINE):
        assert list((ROOT / "hf_mi_ssl").rglob(Path(line).name)), f"{line} of the tree does not exist"


def test_the_tree_has_a_line_for_every_recipe_every_experiment_and_every_directory_of_theirs():
    tree = README[README.index("## The tree") :]
    recipes = ROOT / "recipes"
    scripts = re.search(
        r"^EXPERIMENTS = \((.*?)^\)", (recipes / "experiments" / "all.py").read_text(), re.DOTALL | re.M
    )
    named = [
        *(f"experiments/{name}.py" for name in re.findall(r"\w+", scripts[1])),
        *(p.name for p in recipes.glob("*.py")),
    ]
    named += [f"{path.name}/" for path in recipes.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))]
    assert [name for name in named if not re.search(rf"^    recipes/{re.escape(name)} ", tree, re.MULTILINE)] == []
    for path in re.findall(r"^    (recipes/\S+|model_cards/\S+|tests/\S*) ", tree, re.MULTILINE):
        assert (ROOT / path).exists(), f"{path} of the tree does not exist"


def test_every_encoder_is_named():
    assert all(f"`{name}`" in README for name in ENCODERS)


def test_every_way_to_launch_that_has_a_file_is_shown():
    launching = [*(ROOT / "recipes" / "accelerate").iterdir(), *(ROOT / "recipes" / "slurm").iterdir()]
    assert len(launching) >= 3
    assert all(f" recipes/{path.parent.name}/{path.name} " in README for path in launching)
