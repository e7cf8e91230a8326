"""The arguments of the recipes: a YAML file, overridden by the command line; mistakes answered in one line."""

import itertools
import json

import pytest
import yaml

from hf_mi_ssl.errors import UserError
from hf_mi_ssl.training import Plan, cosine_schedule, cosine_with_warmup, parse_arguments


def parse(*argv):
    return parse_arguments([str(word) for word in argv], "a recipe", method="sdmi")


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-2\nseed: 3\nset: {temperature: 0.5, marginal: {}}\ncompile: true\n"
                    "data_files:\n  train: a.parquet\n")  # fmt: skip
    args = parse("--config", file, "--seed", 4, "--set", "temperature=0.1", "projection_size=64")
    assert (args.learning_rate, args.seed, args.compile, args.method) == (0.01, 4, True, "sdmi")
    assert args.columns == {"temperature": 0.1, "marginal": {}, "projection_size": 64}
    assert args.files == {"train": "a.parquet"}
    assert args.optimizer == "adamw"


def test_the_arguments_of_a_run_that_imported_are_a_configuration_and_import_nothing(tmp_path, caplog):
    mine = tmp_path / "mine.py"
    mine.write_text("raise SystemExit('imported')")
    saved = parse("--seed", 3).to_dict() | {"imported": [str(mine)]}
    (tmp_path / "training_args.json").write_text(json.dumps(saved))
    args = parse("--config", tmp_path / "training_args.json")
    assert (args.seed, args.imported) == (3, [])
    assert "with --import: give it again" in caplog.text
    (tmp_path / "training_args.json").write_text(json.dumps(saved | {"imported": []}))
    assert parse("--config", tmp_path / "training_args.json").seed == 3


@pytest.mark.parametrize(
    "settings", [{"import": "mine.py"}, {"import=mine.py": "x"}, {"set": ["a=1", "--import", "mine.py"]}]
)
def test_a_file_of_flags_imports_nothing_in_any_way(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    (tmp_path / "theirs.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"give --import on the command line|unknown argument|expected"):
        parse("--config", tmp_path / "theirs.json")


def test_the_home_of_the_user_is_meant_where_no_shell_sees_it_and_no_is_no_boolean(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = "output_dir: ~/run\ndata_dir: ~/photos\nmixed_precision: no\ncompile: no\ndata_files: {train: ~/a.parquet}"
    (tmp_path / "run.yaml").write_text(lines)
    (tmp_path / "mine.py").write_text("")
    args = parse("--config", "~/run.yaml", "--import", "~/mine.py", "--data_files", "test=[~/b.parquet, c.parquet]")
    home = [args.output_dir, args.data_dir, *args.imported]
    assert home == [f"{tmp_path}/{name}" for name in ("run", "photos", "mine.py")]
    assert args.files == {"test": [f"{tmp_path}/b.parquet", "c.parquet"], "train": f"{tmp_path}/a.parquet"}
    assert (args.mixed_precision, args.compile) == ("no", False)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--lerning_rate", "1"], "unknown argument --lerning_rate; did you mean --learning_rate?"),
        (["--learning_rat=1"], "did you mean --learning_rate?"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--num_train_epochs", "0"], "--num_train_epochs must be above 0"),
        (["--weight_decay", "-1"], "--weight_decay must not be negative"),
        (["--weight_decay_end", "-1"], "--weight_decay_end must not be negative"),
        (["--max_grad_norm", "0"], "--max_grad_norm must be above 0"),
        (["--freeze_prototypes_epochs", "-1"], "--freeze_prototypes_epochs must not be negative"),
        (["--per_device_train_batch_size", "1"], "at least 2"),
        (["--mixed_precision", "fp8"], "invalid choice: 'fp8'"),
        (["--momentum", "1"], "--momentum must be at least 0 and below 1, got 1.0"),
        (["--momentum", "-0.1"], "--momentum must be at least 0"),
        (["--views", "byl"], "argument --views: invalid choice: 'byl'"),
        (["--local_views", "-1"], "--local_views must not be negative"),
        (["--local_views", "2", "--local_view_size", "0"], "--local_view_size must be above 0"),
        (["--set", "temperature"], "--set takes KEY=VALUE, got 'temperature'"),
        (["--set", "joint={"], "cannot read the value"),
        (["--set", "encoder_config=3"], "use --encoder"),
        (["--set", "method=simsiam"], "use --method"),
        (["--config", "absent.yaml"], "--config absent.yaml: No such file"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(argv, said):
    with pytest.raises(UserError) as raised:
        args = parse(*argv)
        args.columns  # noqa: B018
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("lerning_rate: 1", "did you mean --learning_rate?"), ("- 1\n- 2", "must hold `flag: value` lines"),
     ("a: [", "is not YAML"), ("learning_rate: [1, 2]", "unknown argument 2"), ("seed: x", "invalid int value: 'x'")],
)  # fmt: skip
def test_a_mistake_in_the_file_is_caught_like_one_on_the_command_line(text, said, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=said.replace("?", "\\?").replace("`", "`")):
        parse("--config", tmp_path / "run.yaml")


def test_several_files_of_a_split_are_a_list_and_the_command_line_replaces_a_split(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data_files: {train: [a.parquet, b.parquet], test: c.parquet}\n")
    assert parse("--config", file).files == {"train": ["a.parquet", "b.parquet"], "test": "c.parquet"}
    args = parse("--config", file, "--data_files", "test=d.parquet")
    assert args.files == {"train": ["a.parquet", "b.parquet"], "test": "d.parquet"}


def test_a_file_that_is_not_text_is_no_configuration(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not YAML"):
        parse("--config", tmp_path / "run.yaml")


def test_what_is_saved_can_be_given_again(tmp_path):
    args = parse("--set", "temperature=0.1", "marginal={exact: 2.0}", "--data_files", "train=a", "test=b")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(args.to_dict()))
    again = parse("--config", tmp_path / "again.yaml")
    assert again.to_dict() == args.to_dict()


def test_the_identity_of_a_run_leaves_out_where_it_reads_and_writes():
    one = parse("--output_dir", "a", "--per_device_train_batch_size", 64).identity()
    assert one == parse("--output_dir", "b", "--per_device_train_batch_size", 128, "--data_dir", "moved").identity()
    assert one != parse("--seed", 1).identity()
    assert one != parse("--set", "temperature=1").identity()
    assert one != parse("--views", "byol").identity()
    assert one != parse("--local_views", 2).identity()


def test_the_size_of_local_views_is_to_the_image_as_96_is_to_224():
    sizes = {size: parse("--local_views", 4, "--image_size", size).local_view_size for size in (8, 32, 64, 96, 224)}
    assert sizes == {8: 8, 32: 16, 64: 24, 96: 40, 224: 96}
    assert parse("--local_views", 4, "--local_view_size", 98).local_view_size == 98
    assert parse("--local_view_size", 0).local_views == 0  # nothing is made of that size


def test_the_plan_counts_steps_and_says_what_follows_each():
    plan = Plan(parse("--num_train_epochs", 3, "--warmup_epochs", 1), num_images=1000, num_processes=4)
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps) == (3, 9, 3)
    assert [step for step in range(10) if plan.evaluates(step)] == [0, 3, 6, 9]
    assert [step for step in range(10) if plan.measures_mi(step)] == [0, 3, 6, 9]
    assert [step for step in range(10) if plan.checkpoints(step)] == [3, 6, 9]
    args = parse(
        "--num_train_epochs",
        20,
        "--eval_steps",
        4,
        "--mi_steps",
        0,
        "--checkpointing_steps",
        5,
        "--gradient_accumulation_steps",
        2,
        "--per_device_train_batch_size",
        100,
    )
    plan = Plan(args, num_images=1000)
    assert plan.steps == 100
    assert [step for step in range(14) if plan.evaluates(step)] == [0, 4, 8, 12]
    assert not any(plan.measures_mi(step) for step in range(101))
    assert [step for step in range(14) if plan.checkpoints(step)] == [5, 10]
    assert list(plan.batches_from(98)) == [196, 197, 198, 199]


@pytest.mark.parametrize("batch", [16, 64, 100])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(("images", "pairs"), [(4096, 1024), (1000, 2048), (50_000, 2048), (333, 33)])
def test_mi_is_measured_on_at_most_a_twentieth_of_the_images_trained_in_between(images, pairs, batch, accumulation):
    flags = ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulation]
    plan = Plan(parse(*flags, "--num_train_epochs", 90), num_images=images)
    measured = [step for step in range(plan.steps + 1) if plan.measures_mi(step, pairs)]
    assert {0, plan.steps} <= set(measured)
    assert all(plan.evaluates(step) for step in measured)
    gaps = [later - earlier for earlier, later in itertools.pairwise(measured[:-1])]
    assert gaps
    assert all((gap + 1) * plan.images_per_step >= 20 * pairs for gap in gaps)  # epochs end within a step
    if images == 50_000:
        assert measured == [step for step in range(plan.steps + 1) if plan.evaluates(step)]


def test_who_says_when_to_evaluate_has_mi_with_each_evaluation():
    plan = Plan(parse("--eval_steps", 4), num_images=1000)
    assert [step for step in range(14) if plan.measures_mi(step, 2048)] == [0, 4, 8, 12]
    plan = Plan(parse("--mi_steps", 5), num_images=1000)
    assert [step for step in range(14) if plan.measures_mi(step, 2048)] == [0, 5, 10]


def test_a_batch_larger_than_the_data_set_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="batch of 256 images is larger than the data set of 100"):
        Plan(parse(), num_images=100, num_processes=4)


def test_the_loss_may_compare_more_images_than_are_held_at_once():
    plan = Plan(parse("--contrast_batch_size", 512), num_images=1000, num_processes=2)
    assert (plan.global_batch, plan.steps_per_epoch) == (512, 1)
    with pytest.raises(UserError, match="must be a multiple of 128"):
        Plan(parse("--contrast_batch_size", 500), num_images=1000, num_processes=2)


def test_the_schedules_start_and_end_where_they_should():
    factors = [cosine_with_warmup(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001
    momenta = [cosine_schedule(step, 100, 0.9, 1.0) for step in range(100)]
    assert momenta[0] == pytest.approx(0.9)
    assert momenta == sorted(momenta)
    assert 0.999 < momenta[-1] < 1
    assert {cosine_schedule(step, 100, 0.999, 0.999) for step in range(100)} == {0.999}
    assert [cosine_schedule(step, 100, 0.9, 0.8) for step in (0, 50, 100)] == pytest.approx([0.9, 0.85, 0.8])


@pytest.mark.parametrize(
    ("data", "drawn"),
    [
        (["shapes"], True),
        (["uoft-cs/cifar10"], True),
        (["imagefolder", "--data_dir", "photos"], False),
        (["parquet", "--data_files", "train=a.parquet"], False),
        (["/home/me/photos"], False),
    ],
)
def test_images_are_drawn_where_they_are_public_and_elsewhere_if_asked(data, drawn, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse("--dataset_name", *data).draws_images is drawn
    for asked in ("true", "false"):
        assert parse("--dataset_name", *data, "--show_images", asked).draws_images is (asked == "true")


def test_a_directory_that_looks_like_a_hub_id_is_private(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "photos").mkdir(parents=True)
    assert not parse("--dataset_name", "my/photos").draws_images
