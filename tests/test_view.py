"""`hf-mi-ssl view`: one page without any other resource, for this machine alone, whatever strangers called things."""

import html
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.client import HTTPConnection

import pytest
import torch

from hf_mi_ssl.commands import look, view
from hf_mi_ssl.commands.run_page import read_run
from hf_mi_ssl.encoders import build_encoder, encoder_config
from hf_mi_ssl.errors import UserError
from hf_mi_ssl.hub import export_encoder
from hf_mi_ssl.training import parse_arguments
from hf_mi_ssl.views import IMAGENET_MEAN, IMAGENET_STD

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def run_dir(folder, tmp_path_factory):
    """What a finished run leaves, with a method of a hostile name."""
    root = tmp_path_factory.mktemp("view") / "run"
    flags = ["--dataset_name", "imagefolder", "--data_dir", str(folder), "--image_size", "16"]
    flags += ["--dataloader_num_workers", "0"]
    torch.manual_seed(0)
    encoder = build_encoder(encoder_config("resnet_tiny", 16))
    export_encoder(encoder, root, image_size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    args = parse_arguments(flags, "", method="jmi").to_dict() | {"method": HOSTILE}
    (root / "training_args.json").write_text(json.dumps(args))
    lines = [{"step": 0, "eval/rank/rankme": 8.0, "eval/knn_top1": 0.5} | mi(0.1)]
    for step in (1, 2):
        lines.append({"step": step, "loss": -step, "value": step, "joint/expected_score": step, "marginal/exact": 0})
    lines.append({"step": 2, "eval/rank/rankme": 9.0, "eval/knn_top1": 0.75, "alarm": {"cone": HOSTILE}} | mi(0.4))
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = {"name": "knn_top1", "value": 0.75, "low": 0.6, "high": 0.9, "n": 32, "split": HOSTILE, "encoder": "trained"}
    rows = [row | {"encoder": "random", "value": 0.5, "low": None, "high": None}, row]
    rows.append({"name": "mi/cos_dv", "value": 0.4, "ceiling": 4.9, "n": 32, "split": "test", "encoder": "trained"})
    results = {"steps": 2, "evaluations": rows, "row": {"kind": "bound"}}
    (root / "results.json").write_text(json.dumps(results))
    return root


def mi(value: float) -> dict:
    ends = {"": value, "/low": value - 0.1, "/high": value + 0.1, "/ceiling": 4.9}
    return {f"eval/mi/cos_dv{end}": number for end, number in ends.items()}


class Parsed(HTMLParser):
    """The tags of a page, and the JSON in it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.inside = self.json = ""
        self.feed(text)
        self.data = json.loads(self.json)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = dict(attrs).get("id") or ""

    def handle_data(self, data):
        self.json += data if self.inside == "data" else ""

    def handle_endtag(self, tag):
        self.inside = ""


def test_the_page_holds_the_run_and_nothing_from_elsewhere(run_dir):
    text = view.page(run_dir, 20)
    found = Parsed(text)
    assert found.tags.count("script") == 2  # the data and the code: no name of a stranger ended or began one
    assert "img" not in found.tags
    assert not {name for name, _ in found.attributes} & {"src", "href"}
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    run = found.data["run"]
    assert run["title"].startswith(HOSTILE)
    assert run["alarms"] == [{"step": 2, "text": HOSTILE}]
    panels = {panel["title"]: panel["series"] for panel in run["panels"]}
    assert panels["Objective J − M"] == [{"name": "J − M", "x": [1, 2], "y": [1, 2]}]
    (cos_dv,) = panels["MI of embeddings z, nats"]
    assert cos_dv["x"] == [0, 2]
    assert cos_dv["y"] == [0.1, 0.4]
    assert cos_dv["ceiling"] == 4.9
    assert panels["Top-1 accuracy, %"][0]["y"] == [50, 75]
    assert run["results"]["head"] == ["measured", "random", "trained", "ceiling", "n", "of"]
    assert run["results"]["rows"] == [
        ["knn_top1", "50 %", "75 % (60 to 90)", "", "32", HOSTILE],
        ["mi/cos_dv", "", "0.4", "4.90", "32", "test"],
    ]


def test_images_come_with_their_labels_their_place_and_their_neighbours(run_dir):
    found = look.map_of(run_dir, 20)
    assert found["names"] == ["green", "red"]
    assert {len(found[key]) for key in ("points", "labels", "neighbours", "images")} == {20}
    assert all(image.startswith("data:image/jpeg;base64,") for image in found["images"])
    assert all(i not in [j for j, _ in near] for i, near in enumerate(found["neighbours"]))


def test_neighbours_are_those_of_the_largest_cosines_and_the_map_is_the_principal_components():
    torch.manual_seed(0)
    h = torch.randn(12, 5) * torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1])
    h[7] = 2 * h[3]  # the same direction
    found = look._map(h, torch.zeros(12, 3, 8, 8, dtype=torch.uint8), torch.tensor([4, 9] * 6), None, "test")
    assert found["neighbours"][3][0] == [7, 1.0]
    cosines = torch.nn.functional.cosine_similarity(h[0:1].double(), h.double())
    expected = [j for j in cosines.argsort(descending=True).tolist() if j != 0][:9]
    assert [j for j, _ in found["neighbours"][0]] == expected
    centred = (h - h.mean(0)).double()
    points = torch.tensor(found["points"], dtype=torch.float64)
    torch.testing.assert_close(
        torch.cdist(points, points), torch.cdist(centred[:, :2], centred[:, :2]), atol=0.5, rtol=0.1
    )
    assert found["names"] == ["4", "9"]
    assert found["labels"] == [0, 1] * 6


def test_a_run_in_progress_has_curves_and_no_images(run_dir, tmp_path):
    for name in ("metrics.jsonl", "training_args.json"):
        shutil.copy(run_dir / name, tmp_path)
    found = Parsed(view.page(tmp_path, 20)).data
    assert found["map"] is None
    assert not found["run"]["finished"]
    assert found["run"]["panels"]
    assert found["run"]["results"]["rows"] == []
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3, "loss": -3, "value": 3}) + '\n{"torn')
    assert read_run(tmp_path)["panels"][0]["series"][0]["x"] == [1, 2, 3]


def test_a_run_whose_images_have_moved_is_shown_without_them(run_dir, tmp_path):
    moved = shutil.copytree(run_dir, tmp_path / "run")
    args = json.loads((moved / "training_args.json").read_text())
    (moved / "training_args.json").write_text(json.dumps(args | {"data_dir": str(tmp_path / "gone")}))
    found = Parsed(view.page(moved, 20)).data
    assert found["map"] is None
    assert "gone" in found["missing"]
    assert found["run"]["panels"]


HUB = {"dataset_name": "evil/images", "data_dir": None}
ADDRESS = {"dataset_name": "parquet", "data_dir": None, "data_files": {"train": ["http://10.0.0.1/a.parquet"]}}


@pytest.mark.parametrize(
    "said", [HUB, ADDRESS, {"data_dir": "hf://datasets/evil/images"}, {"data_cache_dir": "/evil"}]
)
def test_only_a_run_that_is_trusted_says_what_is_fetched_and_where_pixels_are_written(
    said, run_dir, tmp_path, monkeypatch
):
    opened = []

    def asked(**data):
        opened.append(data["cache_dir"])
        raise UserError("asked")

    monkeypatch.setattr(look, "open_train_and_held_out", asked)
    copy = shutil.copytree(run_dir, tmp_path / "run")
    args = json.loads((copy / "training_args.json").read_text())
    (copy / "training_args.json").write_text(json.dumps(args | said))
    expected = "asked" if "data_cache_dir" in said else "--trust_run lets them be fetched"
    assert expected in Parsed(view.page(copy, 20)).data["missing"]
    assert opened == ([None] if "data_cache_dir" in said else [])
    assert "asked" in Parsed(view.page(copy, 20, trusted=True)).data["missing"]
    assert opened[-1] == said.get("data_cache_dir")


@pytest.mark.parametrize(
    "change",
    [lambda a: [], lambda a: {}, lambda a: a | {"dataset_name": 3}, lambda a: a | {"image_size": "16"},
     lambda a: a | {"image_size": -1}, lambda a: a | {"views": "evil"}, lambda a: a | {"data_files": ["x"]},
     lambda a: a | {"data_files": {"train": [3]}}, lambda a: "[" * 100_000],
)  # fmt: skip
def test_arguments_that_no_run_has_written_cost_one_line(change, run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    changed = change(json.loads((copy / "training_args.json").read_text()))
    (copy / "training_args.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(UserError):
        look.map_of(copy, 20)


@pytest.mark.parametrize("content", ["[]", '{"evaluations": 3, "steps": 2}', '{"steps": []}', '{"x": 1}'])
def test_results_that_no_run_has_written_cost_one_line(content, run_dir, tmp_path, capsys):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    (copy / "results.json").write_text(content)
    if content == "[]":
        (copy / "training_args.json").write_text("[]")
    assert view.main([str(copy), "--output", str(tmp_path / "page.html"), "--num_images", "0"]) == 2
    said = capsys.readouterr().err
    assert "are not those of a run" in said
    assert said.count("\n") == 1


def test_the_server_answers_this_machine_under_its_own_name_only(run_dir):
    http = view.server(run_dir, 0, port=0)
    assert http.server_address[0] == "127.0.0.1"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:

        def get(path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
            connection = HTTPConnection("127.0.0.1", http.server_port, timeout=60)
            connection.request("GET", path, headers={"Host": f"{host}:{http.server_port}"})
            response = connection.getresponse()
            return response.status, response.read()

        status, text = get("/")
        assert status == 200
        assert Parsed(text.decode()).data["live"]
        assert json.loads(get("/run.json", "localhost")[1])["title"].startswith(HOSTILE)
        assert get("/run.json", "elsewhere.example")[0] == 403
        assert get("/../training_args.json")[0] == 404
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_mistakes_are_one_line(tmp_path, capsys, run_dir):
    assert view.main([str(tmp_path)]) == 2
    assert "holds no metrics.jsonl" in capsys.readouterr().err
    assert view.main([str(run_dir), "--num_images", "0", "--output", str(tmp_path / "absent" / "page.html")]) == 2
    assert "give another --port or --output" in capsys.readouterr().err


def browse(page, profile, *flags: str) -> str:
    """The page as chromium has it once its script has run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={profile}", *flags, "--dump-dom", str(page)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@needs_chromium
def test_a_browser_draws_the_page_and_a_click_chooses_an_image(run_dir, tmp_path):
    page = tmp_path / "page.html"
    assert view.main([str(run_dir), "--output", str(page), "--num_images", "20"]) == 0
    drawn = browse(page.as_uri(), tmp_path / "profile")
    assert "<title>taken" not in drawn
    assert f'<h1 id="title">{html.escape(HOSTILE, quote=False)} on imagefolder</h1>' in drawn  # as text
    assert drawn.count("<polyline") >= 5
    assert drawn.count('class="mark') == 20
    chosen = r'<div class="query"[^>]*><img src="([^"]*)"'
    images = look.map_of(run_dir, 20)["images"]
    assert re.search(chosen, drawn)[1] == images[0]
    click = "<script>document.querySelectorAll('.thumb')[7].click()</script></body>"
    page.write_text(page.read_text().replace("</body>", click))
    assert re.search(chosen, browse(page.as_uri(), tmp_path / "profile"))[1] == images[7]


@pytest.mark.slow
@needs_chromium
def test_the_page_of_a_run_in_progress_follows_it(run_dir, tmp_path, monkeypatch):
    for name in ("metrics.jsonl", "training_args.json"):
        shutil.copy(run_dir / name, tmp_path)
    render = view.page

    def render_and_go_on(*args, **more) -> str:
        text = render(*args, **more)
        with (tmp_path / "metrics.jsonl").open("a") as log:
            log.write(json.dumps({"step": 3, "loss": -3, "value": 3}) + "\n")
        return text

    monkeypatch.setattr(view, "page", render_and_go_on)
    http = view.server(tmp_path, 0, port=0)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        flags = ["--virtual-time-budget=12000"]
        drawn = browse(f"http://127.0.0.1:{http.server_port}/", tmp_path / "profile", *flags)
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
    assert "step 3, in progress" in drawn
