"""Help and mistakes are answered before torch is imported, and importing the package makes its models known."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_mi_ssl.lazy import lazy_names

ROOT = Path(__file__).resolve().parent.parent
# Runs a script as `python script …` does, then says which of the slow libraries it has imported.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print("exit", stop.code or 0)
print("slow:", *(name for name in ("torch", "accelerate", "datasets", "timm") if name in sys.modules))
"""
PRETRAINING = ("pretrain_sdmi.py", "pretrain_jmi.py")
MEASURING = ("knn.py", "linear_probe.py", "finetune.py", "surrogate_report.py", "extract_features.py")
OTHERS = ("estimate_mi.py", "export.py", "import_checkpoint.py", "reproduce.py", "benchmark.py")
COMMANDS = {"doctor": "--no_trial", "view": "--num_images", "check-data": "--dataset_name"}


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        *(([f"recipes/{recipe}", "--help"], 0, "--gradient_accumulation_steps") for recipe in PRETRAINING),
        *(([f"recipes/{recipe}", "--help"], 0, "--model MODEL") for recipe in MEASURING),
        *(([f"recipes/{recipe}", "--help"], 0, "--output_dir OUTPUT_DIR") for recipe in OTHERS),
        *((["hf_mi_ssl.cli", command, "--help"], 0, said) for command, said in COMMANDS.items()),
        (["recipes/pretrain_sdmi.py", "--metod", "sdmi"], 2, "did you mean --method?"),
        (["recipes/pretrain_sdmi.py", "--seed", "one"], 2, "invalid int value"),
        (["recipes/pretrain_jmi.py", "--method", "simclear"], 2, "did you mean 'simclr'?"),
        (["hf_mi_ssl.cli", "--help"], 0, "the table of methods"),
        (["hf_mi_ssl.methods"], 0, "barlow_twins"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_help_and_mistakes_do_not_wait_for_torch(argv, code, said):
    start = time.perf_counter()
    script = RUN if argv[0].endswith(".py") else RUN.replace("run_path", "run_module")
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, cwd=ROOT)
    assert f"exit {code}" in done.stdout
    assert done.stdout.splitlines()[-1] == "slow:"
    assert said in done.stdout + done.stderr
    assert time.perf_counter() - start < 20  # ten times what it is on an idle machine


@pytest.mark.parametrize("first", ["import hf_mi_ssl", "import transformers.models.auto.modeling_auto, hf_mi_ssl"])
@pytest.mark.parametrize("of", ["sdmi", "mi_resnet"])
def test_importing_the_package_makes_its_models_known(first, of, tmp_path):
    from hf_mi_ssl.encoders import MIResNetConfig, MIResNetModel
    from tests.conftest import small_model

    if of == "sdmi":
        model, auto, name = small_model("sdmi"), "AutoModelForPreTraining", "SDMIForPreTraining"
    else:
        model, auto, name = MIResNetModel(MIResNetConfig(depths=[1], hidden_sizes=[8])), "AutoModel", "MIResNetModel"
    model.save_pretrained(tmp_path)
    code = f"{first}\nfrom transformers import {auto}\nprint(type({auto}.from_pretrained({str(tmp_path)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == name, done.stderr


def test_a_lazy_package_has_its_names_and_no_others():
    import hf_mi_ssl
    from hf_mi_ssl import training, views

    for package in (hf_mi_ssl, training, views):
        assert all(hasattr(package, name) for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = package.nothing


def test_a_lazy_import_does_not_look_for_garbage_and_leaves_that_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily" / "__init__.py").write_text("")
    (tmp_path / "lazily" / "good.py").write_text("import gc\n\nLOOKED = gc.isenabled()\n")
    (tmp_path / "lazily" / "bad.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lazily

    get, _ = lazy_names("lazily", {".good": ("LOOKED",), ".bad": ("anything",)})
    assert gc.isenabled()
    assert get("LOOKED") is lazily.LOOKED is False
    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        get("anything")
    assert gc.isenabled()
