"""The experiments: each runs, tiny, through its main; a run that is done is not done again; verdicts follow from
numbers; what is called known mutual information is."""

import importlib
import itertools
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes" / "experiments"))

from hf_mi_ssl.errors import UserError  # noqa: E402
from hf_mi_ssl.mi import CRITICS, Pairs  # noqa: E402

_OF_THE_PACKAGE = {*CRITICS}

import ascents  # noqa: E402
import reading  # noqa: E402
import sources  # noqa: E402
from critics import LearnedCritic  # noqa: E402
from factor_information import information, invertible  # noqa: E402
from harness import BARE, build, phases_of  # noqa: E402
from reporting import SOURCES, Claim, Interval, Report, mean_interval, share_interval  # noqa: E402
from reproducing.evidence import evidence_of, read_all, write_evidence  # noqa: E402
from reproducing.matrix import Run  # noqa: E402
from toy_runs import make_source, parameter_groups, without_some  # noqa: E402

from hf_mi_ssl.mi.critics import score_matrix  # noqa: E402

# Only the tests here know the critics of the experiments
ADDED = {name: CRITICS.pop(name) for name in {*CRITICS} - _OF_THE_PACKAGE}
NAMES = ("mi_tracking", "marginal_ablation", "regulariser_weights", "canonical_vs_established", "nonconcave_critics",
         "predictor_capacity", "two_modalities", "other_modalities", "information_without_accuracy",
         "non_gaussian_laws", "surrogate_training", "label_free_selection", "cifar10_tracking")  # fmt: skip


@pytest.fixture(autouse=True)
def with_critics_of_the_experiments(monkeypatch):
    for name, critic in ADDED.items():
        monkeypatch.setitem(CRITICS, name, critic)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("experiments")
    return root / "runs", root / "results"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[str]:
    """CIFAR-10's columns, with images of noise."""
    root, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split in ("train", "test"):
        pixels = generator.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
        rows = {"img": [Image.fromarray(one) for one in pixels], "label": [i % 10 for i in range(96)]}
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return [f"{split}={root / split}.parquet" for split in ("train", "test")]


def run(module, places, monkeypatch, *more: str) -> int:
    flags = ["--tiny", "--seeds", "1", "--parallel", "1", "--runs", str(places[0]), "--results", str(places[1]),
             "--reproduced", str(places[0]), *more]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [module.__file__, *flags])
    return module.main() if module.__name__ == "all" else importlib.import_module("harness").main(module)


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_and_writes_its_report_figure_and_evidence(name, places, monkeypatch, photographs):
    monkeypatch.delenv("CIFAR10_FILES", raising=False)
    assert run(importlib.import_module(name), places, monkeypatch, "--data_files", *photographs) == 0
    monkeypatch.undo()
    page = (places[1] / f"{name}.md").read_text()
    assert re.fullmatch(r"Verdict: (held|did not hold|cannot tell.*)", page.rstrip().splitlines()[-1])
    assert "are not done" not in page
    assert not re.search(r"\{[A-Za-z_]\w*(:[^}]*)?\}", page)  # a placeholder that nothing filled
    assert f"python recipes/experiments/{name}.py" in page
    assert (places[1] / f"{name}.png").stat().st_size > 10_000
    evidence = json.loads((places[1] / "evidence" / f"{name}.json").read_text())
    assert all({"arguments", "result"} <= set(one) for one in evidence.values())
    claims = page.split("## Claims\n\n")[1].split("\n\n")[0].splitlines()[2:]
    assert all(claim.count("|") == 7 for claim in claims)  # six cells, and none breaks a line in two
    sources = {claim.split(" | ")[1] for claim in claims}
    assert {source.split(" (")[0] for source in sources} <= {*SOURCES.values()}
    cited = {source for source in sources if source.startswith(SOURCES["literature"])}
    assert all(re.fullmatch(r"the literature \(arXiv \d{4}\.\d{5}\)", source) for source in cited)
    if "The paper leaves open whether" in page:  # what a paper leaves open it does not claim
        assert "| the paper |" not in page


def test_all_gathers_the_reports_and_does_nothing_again(places, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in places[0].rglob("*.json")}
    assert before, "the tests of the experiments run before this one"
    assert run(importlib.import_module("all"), places, monkeypatch) == 0
    assert {path: path.stat().st_mtime_ns for path in places[0].rglob("*.json")} == before
    page = (places[1] / "README.md").read_text()
    for name in NAMES:
        assert f"({name}.md)" in page
    assert page.count("**Verdict: ") == len(NAMES)
    sources = ("the paper", "our derivation", "the literature (arXiv 2210.02885)")
    assert all(f"| {source} |" in page for source in sources)
    line = r"^\| \[([^]]+)\]\(\w+\.md\) \| .*\?.* \| (?:held|did not hold|cannot tell)"
    counts = re.findall(line + r" \| (\d+) \| (\d+) \| (\d+) \|$", page, re.M)
    assert len(counts) == len(NAMES)
    failed = re.findall(r"^- \[([^]]+)\]\(\w+\.md\): .*, has to be", page, re.M)
    assert len(failed) == len(re.findall(r"^\| .* \| the paper \| .* \| did not hold \|$", page, re.M))
    for title, *numbers in counts:
        own = (places[1] / f"{title.replace(' ', '_')}.md").read_text().split("## Claims\n\n")[1].split("\n\n")[0]
        assert sum(map(int, numbers)) == len(own.splitlines()) - 2


def test_reports_are_made_again_of_the_evidence_alone(places, monkeypatch, tmp_path):
    pages = {path: path.read_text() for path in places[1].glob("*.md")}
    assert len(pages) == len(NAMES) + 1
    elsewhere = tmp_path / "no runs", places[1]
    assert run(importlib.import_module("all"), elsewhere, monkeypatch, "--report_only") == 0
    assert {path: path.read_text() for path in places[1].glob("*.md")} == pages


def write_evidence_of_examples(directory: Path) -> None:
    """Of whole runs of the recipes, from their files."""
    for method in ("sdmi", "jmi"):
        example = ROOT / "model_cards" / "examples" / method
        declared = Run(f"shapes/{method}-seed0", "shapes", method, 0, "bound", {}, None, example)
        write_evidence(evidence_of(declared), directory / f"{declared.name}.json")


def test_what_was_interrupted_goes_on_and_what_changed_is_done_again(places, monkeypatch, tmp_path):
    module = importlib.import_module("canonical_vs_established")
    gone, changed, kept = (places[0] / module.NAME / f"{name}-seed0.json" for name in ("sdmi", "jmi", "sdmi_ema"))
    written = {path: path.read_text() for path in (gone, changed, kept)}
    gone.unlink()
    changed.write_text(written[changed].replace('"seed": 0', '"seed": 7'))
    stamp = kept.stat().st_mtime_ns
    evidence = places[1] / "evidence" / f"{module.NAME}.json"
    assert run(module, places, monkeypatch, "--report_only") == 0
    assert "are not done" not in (places[1] / f"{module.NAME}.md").read_text()  # the evidence still has them
    evidence.unlink()
    importlib.import_module("running")._evidence.cache_clear()
    assert run(module, places, monkeypatch, "--report_only") == 0
    assert "2 of 12 runs are not done" in (places[1] / f"{module.NAME}.md").read_text()
    write_evidence_of_examples(tmp_path / "cifar10_ten_epochs")
    assert run(module, places, monkeypatch, "--reproduced", str(tmp_path)) == 0
    page = (places[1] / f"{module.NAME}.md").read_text()
    assert "## On images: shapes\n" in page
    assert re.search(r"\| `jmi` \| 1 \| 2 \+ 0 \| \d+\.\d \|", page)
    assert re.search(r"\| `sdmi` \| 1 \| 2 \+ 2 \| \d+\.\d \|", page)
    assert kept.stat().st_mtime_ns == stamp
    for path in (gone, changed):  # the same again: a run is a function of its arguments
        again, first = (json.loads(text)["result"] for text in (path.read_text(), written[path]))
        assert again | {"seconds": 0} == first | {"seconds": 0}


def test_a_share_of_steps_cannot_tell_collapse_from_growth_and_a_gain_can():
    grows, collapses = ({"curves": {"mi": values}} for values in ([0.0, 0.8, 1.6], [0.01, 0.0, 0.0]))
    assert all(reading.rises("mi", 0.02)(grows))
    assert all(reading.rises("mi", 0.02)(collapses))
    assert [reading.gain("mi")(run) for run in (grows, collapses)] == pytest.approx([1.6, -0.01])


def test_the_slack_of_bounds_is_that_of_the_mixture_where_they_are_tightest():
    module = importlib.import_module("mi_tracking")
    done = {
        f"{module.name_of(d, 'jmi')}-seed{seed}": (
            {"source": module.source_of(d), "seed": seed},
            {"estimators": {key: [0.0] for key in module.BOUNDS}},
        )
        for d in (2, 8)
        for seed in (0, 1)
    }
    assert module.slack(done).value == pytest.approx(module.truth_of(module.source_of(2)))


def test_growth_is_a_gain_and_a_control_that_collapses_falls_as_seldom():
    module = importlib.import_module("tracking")
    curves = {"sdmi_turns": [0.0, 0.5, 1.5], "jmi": [0.0, 1.0, 2.0], "jmi_without": [0.2, 0.19, 0.19]}
    curves["sdmi_together"] = [0.0, 1.0, 0.5]
    done = {
        f"m-{arm}-seed{seed}": (
            {"seed": seed},
            {"fine": {"step": [0, 1, 2], "cos_dv": [*values[:2], values[2] + seed / 10], "cos_dv_target": values}},
        )
        for arm, values in curves.items()
        for seed in (0, 1)
    }
    claims = {claim.text: claim for claim in module.Places(done, ["m"], "here").growth()}
    found = {text: claim.found.value for text, claim in claims.items()}
    assert [found[text] for text in found if "less at the start" in text] == pytest.approx([1.55, 2.05])
    assert next(claim.verdict for text, claim in claims.items() if "does not gain" in text) == "cannot tell"
    assert next(found[text] for text in found if "the control, which" in text) == 1.0  # a share cannot tell
    assert next(found[text] for text in found if "both gradients at once" in text) == pytest.approx(0.5)


def test_views_of_photographs_are_of_train_each_epoch_and_held_out_ones_of_test(photographs, monkeypatch):
    module = importlib.import_module("photographs")
    monkeypatch.setenv(module.FILES, "")
    module._corpus.cache_clear()
    module.take_from(photographs)
    law = sources.cifar10(images=40)
    views = law.draw(100, torch.Generator().manual_seed(0))
    labels = views.labels
    assert views.a.shape == views.b.shape == (100, 3, 32, 32)
    first, second = labels[:40], labels[40:80]
    assert first.sort().values.equal(second.sort().values)  # the same images again
    assert not first.equal(second)  # in another order
    assert len({tuple(view.flatten().tolist()) for view in (*views.a, *views.b)}) == 200  # with views of their own
    assert law.draw(100, torch.Generator().manual_seed(0)).a.equal(views.a)
    assert math.isnan(law.truth())
    splits, opened = [], module._corpus
    monkeypatch.setattr(module, "_corpus", lambda split: splits.append(split) or opened(split))
    for draw in (law.draw, law.held_out):
        draw(8, torch.Generator().manual_seed(0))
    assert splits == ["train", "test"]
    for wrong in (["train.parquet"], photographs[:1]):
        with pytest.raises(UserError, match="train=FILE test=FILE"):
            module.take_from(wrong)
    with pytest.raises(UserError, match="no file nowhere.parquet"):
        module.take_from([photographs[0], "test=nowhere.parquet"])


def test_checkpoints_are_chosen_by_a_measure_by_their_number_and_by_chance():
    module = importlib.import_module("label_free_selection")
    curves = {"step": [0, 1, 2, 3], module.KEY: [0.9, 0.5, 0.7, 0.6], "mi/cos_dv": [9.0, 1.0, 3.0, 2.0]}
    done = {"run-seed0": ({"seed": 0}, {"curves": curves, "end": {}})}
    lost = {name: module.checkpoints(done, lambda p, name=name: module.regret(p, name))[0]
            for name in ("cos-DV", module.STEP)}  # fmt: skip
    assert lost == pytest.approx({"cos-DV": 0.0, module.STEP: 0.1})  # the start is no checkpoint
    assert module.checkpoints(done, module.blind)[0] == pytest.approx(0.1)
    assert module.checkpoints(done, lambda p: module.ranked(p, module.STEP))[0] == pytest.approx(0.5)


def test_on_images_rows_are_what_is_replicated_and_a_choice_is_among_checkpoints_or_optimisers(tmp_path):
    module = importlib.import_module("selection_on_images")
    write_evidence_of_examples(tmp_path / "examples")
    one = read_all(tmp_path / "examples")[0]
    keys = ("mi/cos_dv", "mi/cos_dv_calibrated", "mi/info_nce", "rank/rankme", "rank/effective_rank",
            "collapse/alignment", "collapse/uniformity")  # fmt: skip

    def wrote(matrix: str, name: str, method: str, seed: int, accuracies: list[float], mi: list[float]) -> None:
        evaluated = {"step": [*range(len(mi))], "eval/linear_top1": accuracies}
        evaluated |= {f"eval/{key}": mi if "mi/" in key else [-value for value in mi] for key in keys}
        found = replace(one, method=method, seed=seed, evaluated=evaluated)
        write_evidence(found, tmp_path / matrix / name / f"{method}-seed{seed}.json")

    for method, mi in (("jmi", [9, 1, 2, 3]), ("sdmi", [9, 1, 3, 2])):  # the start, which is highest, is no checkpoint
        for seed in (0, 1):
            wrote(module.RUNS, "d", method, seed, [0.9, 0.1, 0.2, 0.3], mi)
        for i, accuracy in enumerate((0.1, 0.2, 0.3)):
            wrote(module.CHOICE, f"optimiser{i}", method, 0, [0.9, accuracy], [9, mi[1 + i]])
    for pool in (module.checkpoints(tmp_path), module.optimisers(tmp_path)):
        assert module.by_row(module.ranked(pool, "cos-DV")) == pytest.approx({"jmi": 1.0, "sdmi": 0.5})
        assert module.by_row(module.ranked(pool, "RankMe")) == pytest.approx({"jmi": -1.0, "sdmi": -0.5})
        assert module.by_row(module.regret(pool, "cos-DV")) == pytest.approx({"jmi": 0.0, "sdmi": 0.1})
        assert module.by_row(module.blind(pool)) == pytest.approx({"jmi": 0.1, "sdmi": 0.1})
    claims = module.claims_on_images(tmp_path, 0.5)
    assert [claim.found.n for claim in claims] == [2] * 9  # rows, not seeds
    assert "(2 rows)" in module.on_images(tmp_path)
    assert module.claims_on_images(tmp_path / "elsewhere", 0.5) == []
    assert "Not among these runs" in module.on_images(tmp_path / "elsewhere")


def test_at_equal_compute_a_row_is_read_on_the_line_between_its_evaluations():
    module = importlib.import_module("canonical_vs_established")
    curves = {"step": [0, 10, 20], "linear_h": [0.1, 0.5, 0.6]}
    done = {f"{row}-seed0": ({"seed": 0}, {"curves": curves}) for row in ("sdmi", "jmi")}
    done |= {f"cost {row}": ({}, {"flops": flops}) for row, flops in (("sdmi", 40), ("jmi", 30))}
    assert module.accuracy(done, "sdmi", equal="compute")[0] == pytest.approx(0.55)  # at step 15
    assert module.accuracy(done, "jmi", equal="compute")[0] == module.accuracy(done, "sdmi")[0] == 0.6


def test_a_gauge_is_asked_the_same_of_runs_that_collapse_and_of_runs_that_do_not():
    module = importlib.import_module("collapse")

    def run(ranks: list[float], alarm: dict) -> dict:
        same = {"collapse/std": 1.0, "collapse/mean_cosine": 0.0, "rank/rankme": 9.0, "collapse/uniformity": -2.0}
        same |= {"mi/cos_dv": 1.0, "mi/cos_dv_calibrated": 1.0}
        curves = {"step": [0, 5, 10, 15], module.ONLINE: ranks} | {name: [value] * 4 for name, value in same.items()}
        return {"curves": curves, "alarm": alarm}

    runs = {"bad": run([9, 9, 2, 2], {"information_loss": 15}), "good": run([9, 2, 9, 9], {"information_loss": 10})}
    done = {f"{name}-seed0": ({"seed": 0}, result) for name, result in runs.items()}
    assert module.first_steps(done, "bad") == [10]
    assert module.rank_and_kinds(done, "bad").endswith("; 1 few dimensions, from step 10")
    rows = {line.split(" | ")[0]: line for line in module.gauges_table(done).splitlines()}
    assert rows["| effective rank of z < 2.5"].endswith("| 1 of 1 | 10 | 1 of 1 |")  # a dip that was made good
    assert rows[f"| {module.ALARM}"].endswith("| 1 of 1 | 15 | 1 of 1 |")


def test_no_embedding_of_shared_symbols_has_more_cos_dv_than_clusters_on_a_simplex():
    module = importlib.import_module("explanations")
    assert [module.simplex_dv(k, 0.2) for k in (8, 10, 16)] == pytest.approx([2.057, 2.268, 2.703], abs=1e-3)
    z = torch.randn(8, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.05)
    for _ in range(400):
        places = torch.nn.functional.normalize(z, dim=1)
        value = 5 - (5 * places @ places.T).flatten().logsumexp(0) + math.log(64)
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
    assert value.item() == pytest.approx(module.simplex_dv(8, 0.2), abs=1e-3)
    assert value.item() < module.simplex_dv(8, 0.2) + 1e-9
    assert module.ceiling(1.0, 3) == module.simplex_dv(64, 0.2)  # 64 symbols: no simplex in 16 dimensions reaches it
    assert [module.attained(p, bits) for p, bits in ((1.0, 1), (0.0, 3), (1.0, 3), (0.5, 3))] == [
        True,
        True,
        False,
        False,
    ]


def test_the_pair_that_is_read_of_other_modalities_is_the_one_that_is_trained():
    module = importlib.import_module("other_modalities")
    jobs = {job.name: job.arguments for job in module.jobs([0], tiny=False)}
    for name, arguments in jobs.items():
        law = make_source(arguments["source"])
        model = build(arguments["method"], law.towers, 0, arguments["columns"])
        towers = [*model.encoder.towers.values()]
        views = law.draw(8, torch.Generator().manual_seed(0))
        for phase in model.phases:
            model(views.a, views.b, phase=phase).loss.backward()
        learns = [any(p.grad is not None for p in tower.parameters()) for tower in towers]
        curve = module.trained_pair(name.rsplit("-seed", 1)[0])
        assert ("predicted" in curve) == (getattr(model, "predictor", None) is not None), name
        if curve == "cos_dv" or "EMA" in name:  # pairs of f, and targets that follow f, need all of f
            assert all(learns), name


def test_a_target_is_white_without_shrinkage_at_any_scale_and_nearly_without_rank():
    a, b = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
    flat = b * torch.tensor([1.0, 1e-3, 1e-3])  # two directions that a shrunk covariance would not see
    for scale in (1e-6, 1.0, 1e6):
        white = CRITICS["exactly_white_target"](a, scale * flat + scale)[1][:, :3]
        torch.testing.assert_close(torch.cov(white.T), torch.eye(3), rtol=0, atol=2e-3)
    shrunk = CRITICS["white_target"](a, flat)[1][:, :3]
    assert torch.cov(shrunk.T).diagonal()[1:].max() < 0.01


def test_what_is_seen_of_a_white_target_is_what_its_critic_compares():
    module = importlib.import_module("white_targets")
    law = make_source({"name": "mixture", "dimension": 4})
    columns = BARE | {"predictor_hidden_size": 8, "marginal": {}, "temperature": 1.0}
    found = {}
    for critic in ("exactly_white_target", "white_target", "whitened_cosine"):
        model = build("sdmi", law.towers, 0, columns | {"critic": critic})
        found[critic] = module.white(model, law, law.draw(256, torch.Generator().manual_seed(0)), {}, 0)
    assert found["exactly_white_target"]["rank"] == pytest.approx(16, abs=0.1)
    assert all(found[critic]["rank"] < 14 for critic in ("white_target", "whitened_cosine"))  # shrunk
    assert found["whitened_cosine"]["cos_dv"] != found["white_target"]["cos_dv"]  # predictions, whitened or raw


def test_embeddings_are_measured_at_every_evaluation_and_those_that_all_share_count_once():
    module = importlib.import_module("non_gaussian_laws")
    arguments = next(job.arguments for job in module.jobs([0], tiny=True) if "along" in job.arguments)
    result = module.train(**arguments)
    assert len(result["gaussianity"]) == len(result["curves"]["step"]) == 3
    assert all([*one] == ["hidden", "h", "z"] for one in result["gaussianity"])
    for method, many in (("jmi", 18), ("sdmi", 14)):  # of 3 evaluations, 3 layers and the 2 higher temperatures
        assert len(module.of_embeddings(method)(result)) == many


def test_panels_of_tracked_runs_are_made_of_their_logs(tmp_path):
    tracking = importlib.import_module("tracked_runs")
    values = [0.1, 0.5, 0.45, 0.9, 1.2]
    write_evidence_of_examples(tmp_path / "examples")
    one = read_all(tmp_path / "examples")[0]
    evaluated = {"step": [0, 1, 2, 3, 4], "eval/mi/cos_dv": values, "eval/mi/jsd": [*values[::-1]]}
    write_evidence(replace(one, evaluated=evaluated), tmp_path / tracking.MATRIX / "cifar10" / "jmi-seed0.json")
    bounds = {"cos-DV": "cos_dv", "JSD": "jsd"}  # one fall in four steps, and three
    cells = r"\| `jmi` \| 1\.200; 0\.75 \(\S+ to \S+ \| 0\.100; 0\.25 \("
    assert re.search(cells, tracking.cifar(tmp_path, bounds, 0.02))
    assert "Not among these runs" in tracking.cifar(tmp_path / "elsewhere", bounds, 0.02)


def test_images_are_compared_seed_by_seed_with_the_mean_of_the_established_methods(tmp_path):
    module = importlib.import_module("reproduced_images")
    write_evidence_of_examples(tmp_path / "examples")
    one = read_all(tmp_path / "examples")[0]
    accuracies = {"sdmi": (0.5, 0.52, 0.54), "simclr": (0.4, 0.41, 0.42), "byol": (0.5, 0.51, 0.52)}
    for method, values in accuracies.items():
        for seed, value in enumerate(values):
            said = {("linear_top1", "trained"): value, ("knn_top1", "trained"): value, ("knn_top1", "pixels"): 0.45}
            rows = [{"name": name, "value": v, "encoder": of, "branch": "online"} for (name, of), v in said.items()]
            found = replace(one, method=method, seed=seed, results=one.results | {"evaluations": rows})
            write_evidence(found, tmp_path / "cifar10_ten_epochs" / "d" / f"{method}-seed{seed}.json")
    claims = module.claims_of("cifar10_ten_epochs", "shapes", module.images(tmp_path)["cifar10_ten_epochs", "shapes"])
    assert [(claim.found.value, claim.found.n, claim.verdict) for claim in claims[:1]] == [
        (pytest.approx(0.06), 3, "held")  # 0.05, 0.06, 0.07
    ]
    assert [claim.verdict for claim in claims[1:4]] == ["cannot tell"] * 3  # no `jmi`, no curves
    best, *others = claims[4:]
    assert "the best of them, `byol`" in best.text
    assert (best.found.value, best.found.n, best.verdict) == (pytest.approx(0.01), 3, "held")  # 0, 0.01, 0.02
    assert [claim.verdict for claim in others[:2]] == ["cannot tell"] * 2  # no `jmi`; no MI, of three rows
    assert [claim.found.value for claim in others[2:]] == [pytest.approx(0.07), pytest.approx(math.nan, nan_ok=True)]
    assert "kNN of pixels 45.0 %, kNN of encoders at random — %" in module.on_images(tmp_path)


def test_a_job_that_fails_is_counted_and_the_others_go_on(tmp_path, capsys):
    harness = importlib.import_module("harness")
    jobs = [
        harness.Job("e", name, harness.make_source, {"source": {"name": name}}) for name in ("nonsense", "waveforms")
    ]
    jobs[1] = harness.Job("e", "good", dict, {"a": 1})
    assert harness.run_all(jobs, tmp_path, 1) == 1
    assert "e/nonsense failed: KeyError" in capsys.readouterr().err
    assert harness.result_of(jobs[1], tmp_path) == {"a": 1, "seconds": pytest.approx(0, abs=1)}
    assert harness.result_of(jobs[0], tmp_path) is None


def test_where_every_run_fails_what_was_published_stays(tmp_path, capsys):
    running = importlib.import_module("running")
    module = ModuleType("stub")
    module.NAME, module.__file__ = "stub", "stub.py"
    module.jobs = lambda seeds, tiny: [running.Job("stub", "a", running.replicated, {})]  # takes arguments: fails
    page = tmp_path / "stub.md"
    page.write_text("published")
    args = running.parser_of("").parse_args(["--runs", f"{tmp_path}", "--results", f"{tmp_path}", "--parallel", "1"])
    assert running.run_experiments([module], args) == 1
    assert page.read_text() == "published"
    assert not (tmp_path / "evidence").exists()
    assert "stub: no run is done" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "equivalence", "verdict"),
    [
        (Interval(1.0, 0.6, 1.4, 5), False, "held"),
        (Interval(0.1, -0.2, 0.4, 5), False, "did not hold"),
        (Interval(0.6, 0.3, 0.9, 5), False, "cannot tell"),
        (Interval(1.0, -math.inf, math.inf, 1), False, "cannot tell"),
        (Interval(math.nan, 0.0, 1.0, 0), False, "cannot tell"),
        (Interval(0.1, -0.2, 0.4, 5), True, "held"),
        (Interval(0.8, 0.6, 1.0, 5), True, "did not hold"),
        (Interval(-0.8, -1.0, -0.6, 5), True, "did not hold"),
        (Interval(0.4, 0.2, 0.6, 5), True, "cannot tell"),
    ],
)
def test_a_verdict_follows_from_the_interval(found, equivalence, verdict):
    assert Claim("", "ours", found, 0.5, equivalence).verdict == verdict


def test_a_report_says_the_verdict_of_its_primary_claims_and_what_it_could_have_told():
    good, bad, open_ = (Interval(1, 0.9, 1.1, 5), Interval(-1, -1.1, -0.9, 5), Interval(0, -0.3, 0.3, 5))

    def last_line(*primary: Interval) -> str:
        claims = [Claim("", "ours", found, 0, primary=True) for found in primary] + [Claim("", "ours", bad, 0)]
        return Report("", "", "", claims, "").last_line()

    assert last_line(good, good) == "Verdict: held"
    assert last_line(good, bad, open_) == "Verdict: did not hold"
    assert last_line(good, open_) == "Verdict: cannot tell (these runs could have told an effect of 0.3)"


def test_intervals_are_those_of_student_and_never_narrower_than_wilsons():
    found = mean_interval([1.0, 2.0, 3.0, None, math.nan])
    half = 4.302653 / math.sqrt(3)  # t_{0.975, 2} s/√n with s = 1
    assert (found.value, found.low, found.high, found.n) == pytest.approx((2.0, 2 - half, 2 + half, 3), rel=1e-5)
    agreed = share_interval([10] * 5, [10] * 5)
    assert agreed.value == agreed.high == 1.0
    assert agreed.low == pytest.approx(50 / (50 + 1.959964**2), rel=1e-6)  # Wilson's of 50 of 50
    cut = mean_interval([0.1, 0.9], 0, 1)  # t_1 = 12.7 reaches far beyond what a share can be
    assert (cut.low, cut.high) == (0.0, 1.0)
    spread = share_interval([10, 0, 10, 0], [10] * 4)
    assert spread.low == 0.0
    assert spread.high == 1.0


def test_critics_are_their_formulas():
    a, b = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()
    for k in (2, 3):
        left, right = CRITICS[f"cosine_{k}"](a, b)
        torch.testing.assert_close((left * right).sum(1), (k * angle).cos())
    left, right = CRITICS["absolute_cosine"](a, b)
    torch.testing.assert_close(left @ right.T, (CRITICS["cosine"](a, b)[0] @ CRITICS["cosine"](a, b)[1].T).abs())
    # Regression on a white target is the second-order bound of the critic aᵀWb, up to a constant, at any scale
    for scale in (1e-4, 1.0, 1e4):
        left, right = CRITICS["white_target_of_any_scale"](a, scale * b)
        white = right[:, :3]
        torch.testing.assert_close(torch.cov(white.T), torch.eye(3, dtype=a.dtype), rtol=0, atol=5e-3)
        pairs = Pairs(a, white, CRITICS["bilinear"])
        n, mean_score = len(a), pairs.positive_scores.mean()
        second = mean_score - (a @ torch.cov(white.T) * a).sum(1).mean() * (n - 1) / n / 2
        constant = white.square().sum(1).mean() / 2
        assert (left * right).sum(1).mean() + constant == pytest.approx(second.item(), abs=0.02)


def test_a_critic_that_learns_scores_each_pairing_by_itself_and_moves_with_the_steps():
    a, b = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    critic = LearnedCritic(8, seed=0)
    scores = score_matrix(critic, a, b)
    alone = torch.stack([score_matrix(critic, a[i : i + 1], b[j : j + 1])[0, 0] for i in range(6) for j in range(6)])
    torch.testing.assert_close(scores, alone.view(6, 6))
    model, blocks, views = ascents.start("learned", 1.0, 0, 32)
    before = model.objective.critic.out.weight.clone()
    (first, *_, last), _ = ascents.steps_of(model, blocks, views, 0.1, 10)
    assert last > first
    assert not torch.equal(model.objective.critic.out.weight, before)


def test_each_step_of_an_ascent_knows_the_curvature_of_what_it_moves():
    model, blocks, views = ascents.start("cosine", 0.5, 0, 32)
    own = [ascents.curvature(model, blocks, views, phase) for phase in ("E", "M")]
    assert own[0] != pytest.approx(own[1], rel=0.01)
    values, betas = ascents.steps_of(model, blocks, views, 1e-3 / max(own), 3, watch=2)
    assert len(values) == 1 + len(betas) == 7
    assert betas[0] == betas[2] == pytest.approx(own[0])
    assert betas[1] == betas[3] == pytest.approx(own[1], rel=0.05)
    assert betas[4] != betas[0]
    assert all(new >= old - 1e-6 for old, new in itertools.pairwise(values))  # so small a step cannot lower it


def test_a_predictor_has_the_depth_and_the_rate_that_are_asked_for():
    columns = BARE | {"predictor_hidden_size": 8, "marginal": {}, "target": "reset"}
    for depth in (1, 2, 4):
        model = build("sdmi", [["vector", 2]], 0, columns, predictor_depth=depth)
        linear = [module for module in model.predictor if isinstance(module, torch.nn.Linear)]
        assert len(linear) == depth
        assert (linear[0].in_features, linear[-1].out_features) == (16, 16)
    others, own = parameter_groups(model, 1e-3, 10.0)
    assert own["lr"] == pytest.approx(1e-2)
    assert {id(p) for p in own["params"]} == {id(p) for p in model.predictor.parameters()}
    assert len(others["params"]) + len(own["params"]) == len([*model.parameters()])


def test_of_pairs_without_a_second_side_the_others_stay_as_they_are():
    views = sources.captions().draw(400, torch.Generator().manual_seed(0))
    found = {
        how: without_some(views, 0.5, how, torch.Generator().manual_seed(1)) for how in ("dropped", "empty", "wrong")
    }
    a, b = found["empty"]
    absent = (b == 0).all(1)
    torch.testing.assert_close(a, views.a)
    assert 150 < absent.sum() < 250
    torch.testing.assert_close(b[~absent], views.b[~absent])
    torch.testing.assert_close(found["dropped"], (views.a[~absent], views.b[~absent]))
    torch.testing.assert_close(found["wrong"][1][~absent], views.b[~absent])
    assert (found["wrong"][1][absent] != views.b[absent]).any(1).all()


def test_information_is_the_entropy_where_all_is_apart_and_nothing_where_all_is_one():
    factor = {"content": torch.arange(64) % 8}
    apart, same = torch.eye(64), torch.ones(64, 3)
    assert information(apart, factor, 0)["content"] == pytest.approx(math.log(8), abs=1e-3)
    assert information(same, factor, 0)["content"] == pytest.approx(0.0, abs=1e-6)
    by_content = torch.eye(8)[factor["content"]]
    assert information(by_content, factor, 0)["content"] == pytest.approx(math.log(8), abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    coarse = by_content + torch.randn(64, 8, generator=generator, dtype=torch.float64)
    read, moved, larger = (information(z, factor, 0)["content"] for z in (coarse, coarse + 100, 7 * coarse))
    assert 0.1 < read < math.log(8)
    assert read == pytest.approx(moved, abs=1e-9)
    assert read == pytest.approx(larger, abs=1e-9)


def test_maps_that_leave_information_as_it_is_can_be_undone():
    """The one that bends, by its definition: each half is what it was, but for what the other says."""
    z = 3 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    maps = invertible(z.float(), 0)
    assert maps["before"](z) is z
    turned = maps["after"](z.float())
    torch.testing.assert_close(
        turned @ torch.linalg.lstsq(turned, z.float()).solution, z.float(), atol=1e-3, rtol=1e-3
    )
    bent = maps["bent"](z.float())
    units = (z.float() - z.float().mean(0)) / z.float().std(0).square().mean().sqrt()
    assert (bent - units).abs().mean() > 0.1
    generator = torch.Generator().manual_seed(0)  # the networks again, to undo what they added
    _ = [torch.randn(6, 6, generator=generator) for _ in range(2)]
    weights = [torch.randn(3, 64, generator=generator) for _ in range(2)]
    back = [torch.randn(64, 3, generator=generator) / 4 for _ in range(2)]
    u_again = bent[:, :3] - (bent[:, 3:] @ weights[1]).sin() @ back[1]
    v_again = bent[:, 3:] - (u_again @ weights[0]).sin() @ back[0]
    torch.testing.assert_close(torch.cat([u_again, v_again], 1), units, atol=1e-4, rtol=1e-4)


def test_two_modalities_take_turns_through_encoders_of_their_own():
    law = sources.captions()
    views = law.draw(32, torch.Generator().manual_seed(0))
    model = build("sdmi", law.towers, 0, BARE, asymmetric=True)
    sizes = [sum(p.numel() for p in part.encoder.parameters()) for part in (model, model.target)]
    assert sizes[0] != sizes[1]
    for phase, moves in (("E", model.encoder), ("M", model.target.encoder)):
        model.zero_grad()
        model(views.a, views.b, phase=phase).loss.backward()
        moved = {
            part
            for part in (model.encoder, model.target.encoder)
            if any(p.grad is not None for p in part.parameters())
        }
        assert moved == {moves}


def test_blocks_are_turns_of_many_steps():
    model = build("sdmi", [["vector", 2]], 0, BARE)
    assert [phases_of(model, "blocks", step, 2) for step in range(5)] == [("E",), ("E",), ("M",), ("M",), ("E",)]
    assert phases_of(model, "turns", 3, 1) == ("E", "M")
