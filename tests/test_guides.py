"""What README and guides tell a reader to type is understood by the command it names; what this machine can run, runs.

Every command of every ```bash block is read here. Those that need GPUs, a cluster or half an hour are parsed by their
own parser; the others run as well, at a small size, with stand-ins for what others made.
"""

import ast
import importlib.util
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState

from hf_mi_ssl import JMIConfig, SDMIConfig, cli, encoders, evaluation
from hf_mi_ssl.evaluation import features
from hf_mi_ssl.methods import METHODS
from hf_mi_ssl.mi import CRITICS, JOINT_TERMS, MARGINAL_TERMS
from hf_mi_ssl.training import arguments_of, parse_arguments
from tests.conftest import SMALLER
from tests.readers import desk, own_hub, stand_ins, tiny_matrix

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "recipes" / "guides"
PAGES = {path.stem: path for path in (ROOT / "README.md", *sorted(GUIDES.glob("*.md")))}
FIRST = "own_images"  # the page whose run the others look at


def commands(page: str) -> list[str]:
    """The commands of a page, each on one line, without comments and without the … that stands for more flags."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", PAGES[page].read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [[word for word in shlex.split(line, comments=True) if word != "…"] for line in lines]
    return [shlex.join(command) for command in words if command]


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
# What is not here: devices, a cluster, somebody's password, installing, half an hour
NOT_HERE = re.compile(r"--multi_gpu|nodes\.yaml|sbatch|hf auth|^make |pip install|recipes/experiments/|benchmark\.py")


class ParsedError(Exception):
    """Raised in the place of what a command would do."""


@pytest.fixture(autouse=True)
def tables_as_they_were():
    """Rows and terms that a command added go again."""
    tables = (METHODS, CRITICS, JOINT_TERMS, MARGINAL_TERMS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before):
        table.clear()
        table.update(entries)


def _recipe_and_flags(command: str) -> tuple[str, list[str]]:
    words = shlex.split(command)
    place = next(i for i, word in enumerate(words) if word.startswith("recipes/") and word.endswith(".py"))
    return words[place], words[place + 1 :]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_is_understood(page, command, tmp_path, monkeypatch):
    monkeypatch.chdir(desk(tmp_path))
    if command.startswith("make "):
        assert f"\n{command.split()[1]}:" in (ROOT / "Makefile").read_text()
    elif command == "hf auth login":
        pass  # huggingface_hub's own
    elif command.startswith("pip "):
        extra = re.fullmatch(r"pip install -e '\.\[(\w+)\]'", command)[1]
        assert f"\n{extra} =\n" in (ROOT / "setup.cfg").read_text()
    elif command.startswith("hf-mi-ssl "):
        understand(command, monkeypatch)
    else:
        assert re.match(r"(ACCELERATE_USE_CPU=1 torchrun|accelerate launch|python|sbatch) ", command)
        recipe, flags = _recipe_and_flags(command)
        assert (ROOT / recipe).is_file()
        for run in {*re.findall(r"runs/[\w-]+(?=/training_args)", command)}:
            Path(run).mkdir(parents=True)
            (Path(run) / "training_args.json").write_text(json.dumps(parse_arguments([], "", method="jmi").to_dict()))
        for row in {*re.findall(r"imported/\w+/method.json", command)}:
            Path(row).parent.mkdir(parents=True)
            Path(row).write_text('{"method": "vicreg"}')
        if "pretrain_" in recipe:
            args = parse_arguments(flags, "", method=recipe[17:-3])
            assert METHODS[args.method].paradigm in recipe
            config_class = SDMIConfig if METHODS[args.method].paradigm == "sdmi" else JMIConfig
            config_class.from_method(args.method, **args.columns)
        else:
            monkeypatch.syspath_prepend((ROOT / recipe).parent)
            spec = importlib.util.spec_from_file_location("recipe", ROOT / recipe)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for name, nothing in (("load_encoder", None), ("input_of", {}), ("load_spaces", (None, {}))):
                for place in (encoders, evaluation, features):
                    monkeypatch.setattr(place, name, lambda *_, made=nothing: made, raising=False)
            for parse in (parse_arguments, arguments_of):
                monkeypatch.setattr(module, parse.__name__, stop_after(parse), raising=False)
            monkeypatch.setattr(ArgumentParser, "parse_args", stop_after(ArgumentParser.parse_args))
            monkeypatch.setattr(sys, "argv", [recipe, *flags])
            with pytest.raises(ParsedError):
                module.main(*([module] if inspect.signature(module.main).parameters else []))


def understand(command: str, monkeypatch) -> None:
    """`hf-mi-ssl`, as far as its arguments go."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    if " doctor " in command:
        Path("my_photos").mkdir()
        monkeypatch.setattr("hf_mi_ssl.commands.diagnosis.diagnose", lambda *_, **__: [])
        assert cli.main() == 0
    elif " view " in command:
        monkeypatch.setattr("hf_mi_ssl.commands.view.page", lambda *_: "")
        Path("runs/my_photos").mkdir(parents=True)
        Path("runs/my_photos/metrics.jsonl").touch()
        assert cli.main() == 0
    else:
        assert cli.main() == 0


def stop_after(parse):
    def stop(*given, **more):
        parse(*given, **more)
        raise ParsedError

    return stop


# What runs, smaller: flags that are added, and words that take the place of others
SIZES = ["--image_size", "16", "--per_device_train_batch_size", "16", "--dataloader_num_workers", "0"]
PHOTOS = ["--dataset_name", "imagefolder", "--data_dir", "my_photos"]
ADDED = {
    "pretrain_sdmi.py": ["--max_train_steps", "4", "--eval_steps", "100", "--warmup_epochs", "0"],
    "pretrain_jmi.py": ["--max_train_steps", "4", "--eval_steps", "100", "--warmup_epochs", "0"],
    "finetune.py": ["--num_train_epochs", "1", "--learning_rate", "1e-3", "--label_fraction", "0.5"],
    "estimate_mi.py": ["--n", "64"],
    "surrogate_report.py": ["--n", "64"],
    "reproduce.py": ["--methods", "jmi", "--output_dir", "runs/reproduce", "--results", "table.md"],
}
REPLACED = {
    "--task all": "--task gaussian_20d_5",
    "--local_views 6 --local_view_size 96": "--local_views 2 --local_view_size 8",
    "--contrast_batch_size 4096": "--contrast_batch_size 32",
    "batch_norm_group_size=128": "batch_norm_group_size=8",
    "--hub_revision_epochs 10": "--hub_revision_epochs 1",
}
MATRIX = {"encoder": "resnet_tiny", "image_size": 16, "per_device_train_batch_size": 16, "max_train_steps": 2,
          "dataloader_num_workers": 0, "set": {"projector_hidden_size": 32, "projection_size": 16}}  # fmt: skip


def run(command: str, pushed: str) -> int | None:
    """Run a command in this process, smaller; returns its exit code. `pushed` is the repository to push to."""
    for old, new in (REPLACED | {"me/my-photos": pushed}).items():
        command = command.replace(old, new)
    if command.startswith("hf-mi-ssl "):
        words = shlex.split(command)
        if "doctor" in words and "--num_images" not in words:
            words += [*SIZES, *PHOTOS]
        sys.argv = words
        return cli.main()
    recipe, flags = _recipe_and_flags(command)
    added = ADDED.get(Path(recipe).name, [])
    if "pretrain_" in recipe:
        method = parse_arguments(flags, "", method={"sdmi": "sdmi_ema", "jmi": "jmi"}[recipe[17:-3]]).method
        columns = {name: SMALLER[name] for name in SMALLER if name in METHODS[method].columns}
        columns |= {"projector_hidden_size": 32, "projection_size": 16}
        if "batch_norm_group_size" not in command:
            added = [*added, "--set", *(f"{name}={value}" for name, value in columns.items())]
        added = [*added, *SIZES, *([] if "shards/" in command else PHOTOS)]
        if "--init_from" not in flags:
            added += ["--encoder", "resnet_tiny"]
    if recipe.endswith("reproduce.py"):
        place = flags.index("--matrix") + 1
        flags[place] = tiny_matrix(flags[place], MATRIX)
    if recipe.endswith(("finetune.py", "import_checkpoint.py")) or "pretrain_" in recipe:
        output = re.search(r"--output_dir (\S+)", command)
        if output is None or Path(output[1]).exists():  # the same run, on another page
            added = [*added, "--output_dir", f"runs/{len(list(Path('runs').glob('*')))}"]
    if "torchrun" in command:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environment = os.environ | {"ACCELERATE_USE_CPU": "1"}
        return subprocess.run([*launcher, recipe, *flags, *added], env=environment).returncode
    sys.argv = [recipe, *flags, *added]
    try:
        runpy.run_path(str(ROOT / recipe), run_name="__main__")
    except SystemExit as done:
        return done.code
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()
    return 0


def runnable(page: str) -> list[str]:
    return [command for command in commands(page) if not NOT_HERE.search(command)]


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    """Where a reader has followed `own_images.md` to its end; the exit code of each of its commands, and a Hub."""
    root = desk(tmp_path_factory.mktemp("reader"))
    stand_ins(root, folder)
    before = sys.argv
    with own_hub(tmp_path_factory.mktemp("hub")) as hub:
        repository = hub.name("guide")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            codes = {command: run(command, repository) for command in runnable(FIRST)}
        sys.argv = before
        yield root, codes, hub


@pytest.mark.slow
def test_own_images_can_be_followed_to_the_card(place):
    root, codes, _ = place
    assert set(codes.values()) <= {0, None}, codes
    assert len(codes) == len(commands(FIRST)) == 5
    card = (root / "runs" / "my_photos" / "README.md").read_text()
    assert "linear" in card
    assert "fine" in card
    assert "data:image/jpeg" in (root / "my_photos.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST and runnable(page)])
def test_every_command_that_can_run_here_runs(page, place, monkeypatch):
    root, _, hub = place
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", sys.argv)
    codes = {command: run(command, hub.made[0]) for command in runnable(page)}
    assert set(codes.values()) <= {0, None}, codes
    if page == "publishing":
        assert {"README.md", "model.safetensors"} <= hub.files(hub.made[0])


def test_what_does_not_run_here_is_the_smaller_part():
    """What is only parsed is in NOT_HERE for a reason."""
    assert sum(bool(NOT_HERE.search(command)) for _, command in COMMANDS) < len(COMMANDS) / 3


# Links

LINKS = [(page, link) for page, path in PAGES.items() for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
FORMULAS = re.findall(r"\[`(\w+)`\]\(\.\./\.\./(hf_mi_ssl/[\w/]+\.py)\)", PAGES["theory"].read_text())


def test_every_formula_is_linked_to_its_function():
    assert len(FORMULAS) > 30
    for name, file in FORMULAS:
        tree = ast.parse((ROOT / file).read_text())
        assigned = (node.targets if isinstance(node, ast.Assign) else [node.target]
                    for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign))  # fmt: skip
        names = {target.id for targets in assigned for target in targets if isinstance(target, ast.Name)}
        names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in names, f"{file} has no {name}"


def test_every_term_and_critic_of_the_formulas_is_in_the_table_that_methods_use():
    tables = {"critics": CRITICS, "joint": JOINT_TERMS, "marginal": MARGINAL_TERMS, "moments": MARGINAL_TERMS}
    for name, file in FORMULAS:
        if Path(file).stem in tables and "mi/" in file:
            assert name in tables[Path(file).stem]


def test_every_link_to_a_file_leads_to_one():
    for page, link in LINKS:
        if not link.startswith(("http", "#")):
            assert (PAGES[page].parent / link.split("#")[0]).exists(), (page, link)


def test_every_guide_is_named_in_the_readme():
    text = PAGES["README"].read_text()
    assert all(f"recipes/guides/{path.name}" in text for path in GUIDES.glob("*.md"))


def test_what_the_guides_say_of_results_is_in_the_results():
    """The numbers of the page that chooses a method, from the table that they were read from."""
    page = (ROOT / "model_cards" / "results" / "cifar10_ten_epochs.md").read_text()
    lines = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    rows = {cells[0]: dict(zip(lines[0], cells)) for cells in reversed(lines) if len(cells) == len(lines[0])}
    columns = ("kNN, %", "linear probe, %", "effective rank of z", "held-out MI of z, nats")
    knn, linear, rank, mi = ({name: float(rows[name][one].split()[0]) for name in METHODS} for one in columns)
    assert 45 <= float(rows["pixels"]["kNN, %"].split()[0]) < 46
    assert round(float(rows["random encoder"]["linear probe, %"].split()[0])) == 31
    tuned = [f"fine-tuned, {share} % of labels, %" for share in (1, 10)]
    few, more = ({name: float(rows[name][one].split()[0]) for name in (*METHODS, "random encoder")} for one in tuned)
    assert (round(few["random encoder"]), round(more["random encoder"])) == (39, 56)
    assert max(more.values()) < 59
    assert all(39.5 <= few[name] < 46 for name in METHODS if name != "w_mse")
    assert all(51 <= linear[name] < 53.5 for name in ("jmi", "dcl", "align_uniform", "corinfomax"))
    assert all(round(linear[name]) == 49 for name in ("vicreg", "simclr", "sdmi"))
    assert round(linear["sdmi_ema"]) == 51
    targets = ("byol", "moco_v2", "moco_v3", "nnclr", "swav", "dino", "simsiam")
    assert all(43 <= round(linear[name]) <= 47 for name in targets)
    assert all(39 <= round(knn[name]) <= 43 for name in targets if name != "moco_v2")
    assert 1 <= rank["spectral"] < 1.5
    assert "complete collapse" in page
    assert (linear["corinfomax"], mi["corinfomax"], linear["simclr"], mi["simclr"]) == (51.7, 1.54, 48.6, 2.2)
    measured = {cells[0]: cells[1] for cells in lines if len(cells) == 5}
    names = ("mi/cos_dv_calibrated", "mi_h/cos_dv_calibrated", "rank/effective_rank", "rank/rankme", "mi/cos_dv")
    assert [measured[name] for name in names] == ["0.98", "0.99", "0.95", "0.87", "0.86"]
    page = (ROOT / "model_cards" / "results" / "paper" / "label_free_selection.md").read_text()
    lines = [line.split(" | ") for line in page.split("## On CIFAR-10")[1].splitlines() if line.startswith("| ")]
    lost = {cells[0].strip("| "): 100 * float(cells[4].split()[0]) for cells in lines if cells[4][0].isdigit()}
    names = ("calibrated cos-DV", "by chance", "RankMe")
    assert [lost[name] for name in names] == pytest.approx([0.4, 1.45, 2.9], abs=0.05)
