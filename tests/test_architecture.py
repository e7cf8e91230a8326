"""The walls and arrows of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_mi_ssl"

# Arrows point down only; what shares a level does not see each other, but for the exceptions below.
LEVELS = [
    {"errors", "counter", "files", "lazy", "version"},
    {"mi", "distributed", "views", "data"},
    {"methods", "nn", "encoders"},
    {"configuration", "estimators"},
    {"modeling_base", "modeling_sdmi", "modeling_jmi"},
    {"training", "evaluation", "hub"},
    {"metrics", "commands"},
    {"cli", "__init__"},
]
SAME_LEVEL = {("modeling_sdmi", "modeling_base"), ("modeling_jmi", "modeling_base")}
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path):
    """(module, in a function?) for each import, relative ones made absolute."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    inner = {node for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.ClassDef)) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in inner
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            if node.module is None or module == "hf_mi_ssl":
                for alias in node.names:
                    yield f"{module}.{alias.name}", node in inner
            else:
                yield module, node in inner


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    room = room_of(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "recipes":
            pytest.fail(f"{path.name} imports recipes")
        if parts[0] != "hf_mi_ssl" or len(parts) == 1 or parts[1] == room:
            continue
        other = parts[1]
        assert LEVEL[other] < LEVEL[room] or (room, other) in SAME_LEVEL, f"{room} imports {other}"


def test_every_room_has_a_level():
    assert {room_of(path) for path in FILES} <= set(LEVEL)


def test_the_mathematics_imports_torch_and_the_standard_library_only():
    for path in (PACKAGE / "mi").rglob("*.py"):
        for module, _ in imports(path):
            top = module.split(".")[0]
            assert top == "torch" or top in sys.stdlib_module_names or module.startswith("hf_mi_ssl.mi"), (
                path,
                module,
            )


def test_only_distributed_touches_torch_distributed():
    for path in FILES:
        if path.name != "distributed.py":
            assert "torch.distributed" not in path.read_text(), path
            assert not any(module.startswith("torch.distributed") for module, _ in imports(path)), path


def test_only_hub_writes_to_the_hub():
    writers = ("HfApi", "create_repo", "create_commit", "upload_file", "upload_folder", ".push_to_hub(")
    for path in [*FILES, *(ROOT / "recipes").glob("*.py")]:
        if room_of(path) != "hub" if path.is_relative_to(PACKAGE) else True:
            assert not any(writer in path.read_text() for writer in writers), path


def test_slow_libraries_are_imported_where_they_are_used():
    heavy = {"evaluate", "datasets", "matplotlib", "timm", "torchvision", "pandas", "sklearn"}
    for path in FILES:
        for module, inside in imports(path):
            assert inside or module.split(".")[0] not in heavy or room_of(path) == "metrics", (path, module)


def test_importing_the_package_stays_light():
    heavy = ("evaluate", "datasets", "matplotlib", "timm")
    code = f"import sys, hf_mi_ssl; print(*(module for module in {heavy} if module in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_nothing_runs_what_it_should_not_trust():
    forbidden = {"eval", "exec"}
    importer = PACKAGE / "hub" / "importers" / "checkpoint.py"
    for path in [*FILES, *(ROOT / "recipes").glob("*.py")]:
        text = path.read_text()
        if path == importer:  # the one place, and tensors alone
            text = text.replace('torch.load(path, map_location="cpu", weights_only=True)', "{}")
        if path == PACKAGE / "metrics" / "__init__.py":  # modules of this package, by their path
            text = text.replace("evaluate.load(str(Path(__file__).parent / name), keep_in_memory=True)", "{}")
        for word in (
            "import pickle", "torch.load(", "torch.save(", "yaml.load(", "shell=True", "allow_pickle",
            "weights_only=False", "os.system", "register_for_checkpointing", "load_state(", "evaluate.load(",
        ):  # fmt: skip
            assert word not in text, (path, word)
        unsafe = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "torch.distributed.checkpoint"}
        assert not unsafe & {module for module, _ in imports(path)}, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", None) not in forbidden, path
                trusts = [keyword for keyword in node.keywords if keyword.arg == "trust_remote_code"]
                assert all(getattr(keyword.value, "value", True) is False for keyword in trusts), path


def test_stop_gradients_have_one_address():
    """Modelling code detaches in SDMI's two phases, and in the one function that makes the output to be reported."""
    found = {}
    for name in ("modeling_base", "modeling_jmi", "modeling_sdmi"):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr == "detach"]
            if calls:
                found[function.name] = len(calls)
    assert found == {"compare": 2, "pretraining_output": 5}


def test_files_stay_short():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 250, path
