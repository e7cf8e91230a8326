"""Bad arguments, data sets and configurations: one line, the way out, exit code 2, and nothing is damaged."""

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from hf_mi_ssl.data import open_train_and_held_out
from hf_mi_ssl.encoders import encoder_config
from hf_mi_ssl.errors import ExitCode, UserError
from hf_mi_ssl.hub import export_encoder
from hf_mi_ssl.training.checkpoints import save_checkpoint
from tests.conftest import small_model
from tests.faults.harness import RECIPES, log_of, train

ARGUMENTS = [  # of the recipes that train: (what is given, what is said)
    ("--lerning_rate 1", "did you mean --learning_rate?"),
    ("--learning_rate fast", "invalid float value: 'fast'"),
    ("--learning_rate -1", "must not be negative"),
    ("--learning_rate nan", "--learning_rate must be a finite number"),
    ("--weight_decay inf", "--weight_decay must be a finite number"),
    ("--num_train_epochs 0", "must be above 0"),
    ("--num_train_epochs inf", "must be a finite number"),
    ("--max_train_steps -3", "must be above 0"),
    ("--max_train_steps 1.5", "invalid int value"),
    ("--per_device_train_batch_size 1", "at least 2"),
    ("--per_device_train_batch_size 0", "must be above 0"),
    ("--per_device_train_batch_size 4096", "larger than the data set"),
    ("--contrast_batch_size 40", "must be a multiple of 16"),
    ("--gradient_accumulation_steps 0", "must be above 0"),
    ("--image_size 0", "must be above 0"),
    ("--image_size 64x64", "invalid int value"),
    ("--momentum 1", "below 1"),
    ("--warmup_epochs -1", "must not be negative"),
    ("--max_grad_norm 0", "must be above 0"),
    ("--mixed_precision fp8", "invalid choice"),
    ("--mixed_precision fp16", "needs a GPU"),
    ("--optimizer adamww", "did you mean"),
    ("--seed x", "invalid int value"),
    ("--method simsam", "did you mean 'simsiam'?"),
    ("--method simclr", "use recipes/pretrain_jmi.py"),
    ("--encoder resnet_tny", "did you mean 'resnet_tiny'?"),
    ("--encoder timm/resnet_18", "timm"),
    ("--encoder timm/hf_hub:evil/model", "unknown timm architecture"),
    ("--encoder dinov2_small --image_size 20", "20"),
    ("--init_from absent", "no directory 'absent'"),
    ("--init_from nobody/nothing", "cannot load an encoder from 'nobody/nothing'"),
    ("--set temperature", "takes KEY=VALUE"),
    ("--set temprature=1", "did you mean 'temperature'?"),
    ("--set temperature=0", "temperature"),
    ("--set temperature=hot", "temperature"),
    ("--set marginal={exakt:1}", "exakt"),
    ("--set marginal={exakt", "cannot read the value"),
    ("--set joint=3", "joint"),
    ("--set projection_size=0", "projection_size"),
    ("--set projection_size=big", "projection_size"),
    ("--set method=simsiam", "use --method"),
    ("--set queue_size=-1", "queue_size"),
    ("--views byl", "invalid choice"),
    ("--local_views -1", "must not be negative"),
    ("--local_views 2 --local_view_size 0", "must be above 0"),
    ("--config absent.yaml", "No such file"),
    ("--import absent.py", "absent.py"),
    ("--report_to nothing", "nothing"),
    ("--output_dir /dev/null/run", "/dev/null/run"),
    ("--checkpointing_steps 0", "must be above 0"),
    ("--checkpoints_total_limit 0", "must be above 0"),
    ("--resume_from_checkpoint absent", "cannot resume from absent"),
    ("--eval_steps 0", "must be above 0"),
    ("--mi_steps -1", "must not be negative"),
    ("--max_hours 0", "must be above 0"),
    ("--max_bad_steps 0", "must be above 0"),
    ("--process_timeout 0", "must be above 0"),
    ("--dataloader_num_workers -1", "must not be negative"),
    ("--push_to_hub", "--hub_model_id is missing"),
    ("--push_to_hub --hub_model_id photos", "must be OWNER/NAME"),
    ("--hub_revision_epochs 2", "needs --push_to_hub"),
    ("--dataset_name webdataset", "cannot load 'webdataset'"),
    ("--dataset_name imagefolder --data_dir absent", "absent"),
    ("--dataset_name parquet", "cannot load 'parquet'"),
    ("--dataset_name parquet --data_files train=absent.parquet", "absent.parquet"),
    ("--dataset_name nobody/nothing", "nobody/nothing"),
    ("--data_files a.parquet", "takes KEY=VALUE"),
    ("--train_split training", "training"),
    ("--train_split train --eval_split train", "cannot be both"),
    ("--eval_split nowhere", "nowhere"),
    ("--image_column_name img", "img"),
    ("--label_column_name name", "name"),
    ("--label_column_name image", "choose one of integers or strings"),
    ("--optimizer bnbadam", "unknown optimizer"),
    ("--optimizer fusedlamb", "unknown optimizer"),
    ("--optimizer adahessian", "cannot be used here"),
    ("--optimizer adafactorbv", "cannot be used here"),
    ("--seed -1", "from 0 to 2**63 - 1"),
    ("--seed 9223372036854775808", "from 0 to 2**63 - 1"),
    ("--process_timeout 1e30", "at most"),
    ("--dataloader_timeout 1e30", "at most"),
    ("--num_train_epochs 1e308", "at most"),
    ("--warmup_epochs 1e308", "at most"),
    ("--gradient_accumulation_steps 100000000000", "at most"),
    ("--local_views 1000000", "at most"),
    ("--set projection_size=1000000000000", "beyond all memory"),
    ("--set queue_size=1000000000000", "beyond all memory"),
    ("--set projector_num_layers=1000000000", "beyond all memory"),
    ("--set temperature=.inf", "temperature must be"),
    ("--set temperature=1e-300", "temperature must be"),
    ("--output_dir=", "--output_dir is empty"),
    ("--per_device_train_batch_size 1000000000", "and this machine has"),
    ("--image_size 20000", "--image_size must be at most 4,096"),
    ("--local_views 2 --local_view_size 5000", "--local_view_size must be at most 4,096"),
    ("--dataloader_num_workers 100000", "at most 1,024"),
    ("--data_files train=[1,2]", "files are written [a.parquet, b.parquet]"),
    ("--data_files train=[[a]]", "files are written [a.parquet, b.parquet]"),
    ("--data_files train=[{a:b}]", "files are written [a.parquet, b.parquet]"),
    ("--data_files train=[]", "files are written [a.parquet, b.parquet]"),
    (f"--set joint={'[' * 3000}", "--set: cannot read the value"),
    ('--set marginal={"info_nce":1' + "0" * 45 + "}", "the weight of info_nce must be a number up to 1e6"),
    ('--set marginal={"info_nce":1' + "0" * 400 + "}", "the weight of info_nce must be a number up to 1e6"),
    ('--set joint={"expected_score":.nan}', "the weight of expected_score must be a number up to 1e6"),
    ('--set marginal={"info_nce":.inf}', "the weight of info_nce must be a number up to 1e6"),
]
tried = []


def one_line(code, captured, name, said, expected=ExitCode.ARGUMENTS):
    assert code == expected, captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith(f"{name}.py: ")]
    assert len(lines) == 1, captured.err
    assert said in lines[0]
    assert len(lines[0]) < 1000
    assert "Traceback" not in captured.err + captured.out
    tried.append(lines[0])


@pytest.fixture(scope="module")
def images(folder):
    return ["--dataset_name", "imagefolder", "--data_dir", folder]


@pytest.mark.parametrize(("given", "said"), ARGUMENTS, ids=[given for given, _ in ARGUMENTS])
def test_a_bad_argument_costs_one_line(given, said, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")  # where fp16 is a mistake
    by_name = {"encoder_config": encoder_config}
    code = train("sdmi", tmp_path / "run", *images, "--max_train_steps", 2, *given.split(), **by_name)
    one_line(code, capsys.readouterr(), "pretrain_sdmi", said)
    assert not any((tmp_path / "run" / name).exists() for name in ("metrics.jsonl", "checkpoints"))


CONFIGURATIONS = [
    ("lerning_rate: 1", "did you mean --learning_rate?"),
    ("- 1\n- 2", "must hold `flag: value` lines"),
    ("a: [", "is not YAML"),
    ("learning_rate: [1, 2]", "unknown argument"),
    ("seed: x", "invalid int value"),
    ("!!python/object/apply:os.system ['touch hacked']", "is not YAML"),
    ("seed: !!python/name:os.system", "is not YAML"),
    ("output_dir: [a, b]", "unknown argument"),
    ("compile: maybe", "compile"),
    ("{}: 1", "is not YAML"),
    ("set: {temperature: {a: 1}}", "temperature"),
    ("just words", "must hold `flag: value` lines"),
    ("\x00", "is not YAML"),
    ("a: &a [*a]", "unknown argument --a"),
    ("set: 3", "takes KEY=VALUE"),
    ("config: other.yaml", "config"),
    ("a: " + "[" * 5000, "is not YAML"),
    ('data_cache_dir: "a\\0b"', "holds a zero byte"),
    ("mixed_precision: off\nseed: x", "invalid int value: 'x'"),
]


@pytest.mark.parametrize(("text", "said"), CONFIGURATIONS)
def test_a_bad_configuration_costs_one_line(text, said, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    code = train("jmi", tmp_path / "run", *images, "--max_train_steps", 2, "--config", tmp_path / "run.yaml")
    one_line(code, capsys.readouterr(), "pretrain_jmi", said)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "run") == ["run.yaml"]


def table(path, **columns):
    datasets.Dataset.from_dict(columns).to_parquet(path)
    return ["--dataset_name", "parquet", "--data_files", f"train={path}"]


def images_in(directory, n, held_out=4):
    """So many images of the split that is trained on, beside a few to evaluate on."""
    for split, count in (("train", n), ("test", held_out)):
        (directory / split).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (6 * i, 0, 0)).save(directory / split / f"{i}.png")
    return ["--dataset_name", "imagefolder", "--data_dir", directory]


def not_images(directory):
    directory.mkdir()
    (directory / "a.txt").write_text("words")
    return ["--dataset_name", "imagefolder", "--data_dir", directory]


def two_columns(path):
    features = datasets.Features({"a": datasets.Image(), "b": datasets.Image()})
    image = [Image.new("RGB", (8, 8))] * 40
    datasets.Dataset.from_dict({"a": image, "b": image}, features=features).to_parquet(path)
    return ["--dataset_name", "parquet", "--data_files", f"train={path}"]


def labelled(path, *labels, kind):
    columns = {"image": [{"bytes": b"", "path": None}] * 40, "label": pyarrow.array([*labels] * 20, kind)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return ["--dataset_name", "parquet", "--data_files", f"train={path}"]


def garbage(path):
    path.write_bytes(b"PAR1 no parquet at all")
    return ["--dataset_name", "parquet", "--data_files", f"train={path}"]


DATA = [
    ("no images at all", lambda at: images_in(at, 0, 0), "no images in"),
    ("no images to train on", lambda at: images_in(at, 0), "'imagefolder' has no split 'train'"),
    ("one image", lambda at: images_in(at, 1), "batch of 16 images is larger than the data set of 1"),
    ("two images", lambda at: images_in(at, 2), "batch of 16 images is larger than the data set of 2"),
    ("a batch less one", lambda at: images_in(at, 15), "batch of 16 images is larger than the data set of 15"),
    ("one image in all", lambda at: images_in(at, 1, 0), "1 image"),
    ("a batch less what is held out", lambda at: images_in(at, 16, 0), "larger than the data set of 14"),
    ("texts", not_images, "no images in"),
    ("no column of images", lambda at: table(at, words=["a"] * 40), "words"),
    ("numbers only", lambda at: table(at, image=[1] * 40), "no column holds images"),
    ("no rows", lambda at: table(at, image=[]), "no images in"),
    ("two columns of images", two_columns, "--image_column_name"),
    ("no parquet", garbage, "check that the data are whole"),
    ("paths of numbers", lambda at: table(at, image=[{"bytes": b"", "path": 1}] * 40), "no column holds images"),
    ("huge labels", lambda at: labelled(at, 0, 2**63, kind="uint64"), f"holds {2**63}; labels are"),
    ("negative labels", lambda at: labelled(at, 0, -5, kind="int64"), "holds -5; labels are"),
]


@pytest.mark.parametrize(("make", "said"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
def test_a_bad_data_set_costs_one_line(make, said, tmp_path, capsys):
    argv = make(tmp_path / "data")
    code = train("jmi", tmp_path / "run", *argv, "--max_train_steps", 2, opened=open_train_and_held_out)
    one_line(code, capsys.readouterr(), "pretrain_jmi", said)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("n", "steps"), [(16, 3), (17, 3), pytest.param(35, 6, marks=pytest.mark.slow)])
def test_as_many_images_as_a_batch_and_a_last_short_one_are_enough(n, steps, tmp_path):
    """What does not fill a batch is left for the next epoch."""
    argv = images_in(tmp_path / "data", n)
    assert train("sdmi", tmp_path / "run", *argv, "--num_train_epochs", 3, opened=open_train_and_held_out) == 0
    assert [record["step"] for record in log_of(tmp_path / "run") if "loss" in record] == list(range(1, steps + 1))


@functools.cache
def recipe(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OTHERS = [
    ("knn", "", "--model"),
    ("knn", "--model absent", "no directory 'absent'"),
    ("knn", "--model {encoder} --k 0", "must be above 0"),
    ("knn", "--model {encoder} --learning_rate 1", "does nothing here"),
    ("linear_probe", "--model {encoder} --datset_name x", "did you mean '--dataset_name'?"),
    ("linear_probe", "--model {encoder} --dataset_name imagefolder --data_dir absent", "absent"),
    ("finetune", "--model {encoder} --label_fraction 2", "cannot keep the fraction 2"),
    ("finetune", "--model {encoder} --label_fraction many", "invalid float value"),
    ("extract_features", "--model {encoder} --split nowhere", "nowhere"),
    ("extract_features", "--model {encoder} --projector", "projector"),
    ("extract_features", "--model {encoder} --image_size 100000", "at most 4,096"),
    ("export", "", "required: model"),
    ("export", "{encoder} --format tflite", "invalid choice"),
    ("export", "absent", "no directory 'absent'"),
    ("import_checkpoint", "absent.pth --output_dir out", "no file 'absent.pth'"),
    ("import_checkpoint", "x.pth", "required: --output_dir"),
    ("estimate_mi", "", "one of the arguments --task --model --page is required"),
    ("estimate_mi", "--task gaussian", "unknown task"),
    ("estimate_mi", "--task all --n 3", "too few pairs"),
    ("estimate_mi", "--task all --estimators best", "unknown estimator"),
    ("surrogate_report", "--model absent", "absent"),
    ("render_card", "absent", "absent"),
    ("push_to_hub", "absent", "holds no finished run"),
    ("push_to_hub", "absent --hub_model", "unrecognized"),
    ("reproduce", "--matrix absent.yaml", "absent.yaml"),
    ("reproduce", "--parallel two --matrix m.yaml", "invalid int value"),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    export_encoder(small_model("jmi").encoder, directory, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    return directory


@pytest.mark.parametrize(("name", "given", "said"), OTHERS, ids=[f"{name} {given}" for name, given, _ in OTHERS])
def test_a_bad_argument_of_another_recipe_costs_one_line(name, given, said, encoder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(encoder.rglob("*"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given.format(encoder=encoder).split()])
    monkeypatch.syspath_prepend(RECIPES)  # as of a script
    module = recipe(name)
    one_line(module.run_downstream(module.main), capsys.readouterr(), name, said)
    assert sorted(encoder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given", "said"),
    [("pretrain_jmi", "--set temprature=1", "did you mean"), ("knn", "--model absent", "no directory 'absent'"),
     ("push_to_hub", "absent", "holds no finished run"), ("estimate_mi", "--task x", "unknown task")],
)  # fmt: skip
def test_a_mistake_shows_no_traceback_at_the_shell(name, given, said, tmp_path):
    command = [sys.executable, str(RECIPES / f"{name}.py"), *given.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == ExitCode.ARGUMENTS
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_weights_that_a_mistake_made_infinite_are_not_saved_and_the_last_good_checkpoint_is_named(tmp_path):
    last = save_checkpoint(tmp_path, 1, {"model": {"weight": torch.ones(2)}}, {}, 2)
    with pytest.raises(UserError, match=re.escape(str(last))) as raised:
        save_checkpoint(tmp_path, 2, {"model": {"weight": torch.full((2,), torch.inf)}}, {}, 2)
    assert raised.value.exit_code == ExitCode.NOT_FINITE


def test_so_many_were_tried(figure):
    cases = len(ARGUMENTS) + len(CONFIGURATIONS) + len(DATA) + len(OTHERS)
    if len(tried) < cases:
        pytest.skip("not all were asked for")
    assert len(set(tried)) >= 60
    figure("bad arguments and data: one line, exit code 2", f"{len(tried)} of {cases}")
