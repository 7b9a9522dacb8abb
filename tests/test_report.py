"""The report: one file that shows what a run found, and runs nothing of what it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import staging

from finetune import report
from finetune.report import page
from finetune.report.log import Log
from finetune.report.pictures import thumbnail

HOSTILE = [
    '<script>document.title="PWNED"</script>',
    '"><img src=x onerror="document.title=\'PWNED\'">',
    "</text></svg></style></title><script>document.title='PWNED'</script>",
    "<!-- <svg onload=document.title='PWNED'>",
    "javascript:document.title='PWNED'",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{x^2$",
    "a\nb\x00\x1b[31m\u202ec",
    "../../etc/passwd",
    "&lt;b&gt; & <b>bold</b>",
]
PATH = '/home/somebody/<img src=x onerror="document.title=\'PWNED\'">/"onload="x.png'


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def written(tmp_path: Path, job, predictions, **changes) -> str:
    folder = staging.folder(tmp_path / "run", job)
    report.write(folder, job, staging.result(job, predictions, **changes), predictions)
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    """Return the report of an ordinary run."""
    return written(tmp_path_factory.mktemp("plain"), *staging.classes())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    """Return a report in which every name that data can bring is hostile."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    source = {"name": HOSTILE[0], "title": HOSTILE[1], "license": HOSTILE[2]}
    job, predictions = staging.classes(HOSTILE, n=100, skill=1.0, source=source, path=PATH)
    return written(tmp_path, job, predictions, name=HOSTILE[2], notes=HOSTILE)


def test_it_shows_the_headline_beside_interval_and_baseline(plain):
    job, predictions = staging.classes()
    text = Elements(plain).text
    figure = job.target.scores(predictions, job.samples["test"].truth)["accuracy"]
    assert f"{100 * figure['value']:.1f} %" in text
    assert f"95 % interval {100 * figure['low']:.1f} to {100 * figure['high']:.1f}, n = 60" in text
    assert "Clearly better than the baseline: majority" in text and "33.3 %" in text
    for part in ("Scores", "Classes", "Confusion", "Calibration", "Worst mistakes", "Training"):
        assert part in text
    for fact in ("cc0-1.0", "812 MB", "torch", "2.10.0", "kind: image-classification", "432"):
        assert fact in text
    assert "2026-01-02 03:04, 60 rows in fp32, batches of 64" in text
    assert "the same logits" in text and "logits within 1.2e-07" in text and "% sure" in text
    assert "left out: unreadable" in text and "The test split is 60 rows" in text


def test_it_needs_nothing_but_itself(plain):
    text, elements = plain, Elements(plain)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {
        n for n, _ in elements.found
    }
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert 'name="viewport"' in text and "default-src 'none'" in text
    assert len(text.encode()) < 400_000


def test_figures_take_the_colours_and_the_font_of_the_page(plain):
    figures = re.findall(r"<svg.*?</svg>", plain, re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        assert "var(--ink)" in figure or "var(--muted)" in figure
        assert not re.search(r"#[0-9a-f]{6}|font-family|DejaVu|<style|<metadata", figure)
    names = re.findall(r' id="([^"]+)"', "".join(figures))
    assert len(names) == len(set(names))


def test_the_same_run_gives_the_same_report_and_costs_little(plain, tmp_path):
    job, predictions = staging.classes()
    folder, result = staging.folder(tmp_path / "run", job), staging.result(job, predictions)
    began = time.process_time()
    report.write(folder, job, result, predictions)
    assert time.process_time() - began < 4
    assert (folder / "report.html").read_text("utf-8") == plain


def test_hostile_names_are_text_in_the_source(hostile, tmp_path):
    text, elements = hostile, Elements(hostile)
    benign = Elements(written(tmp_path, *staging.classes(list("abcdefghij"), n=100, skill=1.0)))
    assert {name for name, _ in elements.found} <= {name for name, _ in benign.found}
    assert elements.count("img") == benign.count("img") == 24
    assert elements.count("svg") == benign.count("svg")
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on")]
    assert HOSTILE[0] in elements.text and "{{ 7 * 7 }}" in elements.text
    assert "\\x1b[31m\\u202ec" in elements.text
    assert "\x00" not in text and "\x1b" not in text and "\u202e" not in text
    assert "somebody" not in text


def test_every_kind_of_block_escapes_what_it_holds():
    bad = HOSTILE[0]
    blocks = [
        page.Figure("<svg></svg>", bad, '" onload="x'),
        page.Table([bad], [[bad], [(bad, bad)]], bad, fold=bad),
        page.Facts({bad: bad}, bad),
        page.Gallery([page.Sample(bad, bad, bad, "", bad, bad), page.Sample(bad, bad)]),
        page.Gallery([page.Sample("", "", words=[(bad, 1.0), (bad, -1.0), (bad, 0.0)])]),
        page.Code(bad),
        page.Sentences([bad]),
    ]
    headline = page.Headline(bad, bad, bad, bad, False, [bad])
    whole = page.Page(bad, bad, headline, [page.Section(bad, blocks, bad)])
    elements = Elements(page.render(whole))
    assert elements.count("script") == 0
    assert elements.text.count(bad) == 32
    assert not [1 for _, attributes in elements.found if "onload" in attributes]


@pytest.mark.parametrize("kind", ["numbers", "label_sets"])
def test_other_kinds_of_target_have_their_own_sections(tmp_path, kind):
    job, predictions = getattr(staging, kind)()
    elements = Elements(written(tmp_path, job, predictions))
    if kind == "numbers":
        assert "RMSE on the test split" in elements.text and "Largest errors" in elements.text
        assert "Confusion" not in elements.text and "Calibration" not in elements.text
    else:
        assert "Mean average precision on the test split" in elements.text
        assert "Labels" in elements.text and "Confusion" not in elements.text
        assert "has green" in elements.text


def test_many_classes_give_tables_instead_of_a_matrix(tmp_path):
    names = [f"species {place}" for place in range(60)]
    job, predictions = staging.classes(names, n=240, skill=3.0)
    elements = Elements(written(tmp_path, job, predictions))
    assert "The 40 classes of lowest F1 of 60" in elements.text
    assert "Most often mixed up" in elements.text and "true classes in rows" not in elements.text
    assert "species 59" in elements.text


def test_a_doubtful_result_is_called_so(tmp_path):
    job, predictions = staging.classes(skill=0.0)
    looks = [{"time": "2026-01-02", "precision": "fp32", "batch_size": 64, "n": 60}] * 2
    text = written(tmp_path, job, predictions, looks_at_test=looks)
    assert "Not clearly better than the baseline majority" in text and "verdict doubt" in text
    assert "looked at 2 times" in text


def test_a_perfect_model_has_no_mistakes_to_show(tmp_path):
    job, _ = staging.classes()
    perfect = np.eye(3, dtype=np.float32)[job.samples["test"].truth]
    text = Elements(written(tmp_path, job, perfect)).text
    assert "100.0 %" in text and "Worst mistakes" not in text and "mixed up" not in text


def test_a_fitted_head_shows_what_was_tried_instead_of_curves(tmp_path):
    job, predictions = staging.classes()
    folder = staging.folder(tmp_path / "run", job)
    for name in ("metrics.jsonl", "environment.json", "recipe.yaml"):
        (folder / name).unlink()
    tried = [{"c": 0.01, "train_loss": 0.7, "validation_loss": 0.8}]
    result = staging.result(job, predictions, training={"probe": {"c": 0.01, "tried": tried}})
    report.write(folder, job, result, predictions)
    text = Elements((folder / "report.html").read_text("utf-8")).text
    assert "loss by the strength of its penalty" in text and "0.8000" in text
    assert "Learning rate" not in text


def test_a_metric_that_is_not_defined_is_a_dash(tmp_path):
    job, predictions = staging.classes()
    result = staging.result(job, predictions)
    figure = {"value": None, "low": None, "high": None, "n": 60, "reason": "it is not defined"}
    for name in ("accuracy", "auroc"):
        result["test"][name] = figure
    folder = staging.folder(tmp_path / "run", job)
    report.write(folder, job, result | {"baselines": {}}, predictions)
    assert "\N{EN DASH}" in (folder / "report.html").read_text("utf-8")


def test_the_log_is_read_by_update(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"epoch": 1, "update": 2, "loss": 1.0, "lr": 0.1},
        {"epoch": 1, "update": 4, "loss": 0.5, "lr": 0.2},
        {"epoch": 1, "validation": {"accuracy": 0.5, "auroc": None}},
        {"epoch": 2, "update": 8, "loss": 0.25, "lr": 0.1},
        {"epoch": 2, "validation": {"accuracy": 0.75, "auroc": 0.9}},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    log = Log.read(path)
    assert log.loss == ([2, 4, 8], [1.0, 0.5, 0.25])
    assert log.validation == {"accuracy": ([4, 8], [0.5, 0.75]), "auroc": ([8], [0.9])}
    assert log.epochs == {1: 4, 2: 8}
    assert Log.read(tmp_path / "missing") == Log()


def test_thumbnails_are_small_and_broken_pictures_are_missing(tmp_path):
    address, small = thumbnail(staging.picture(1))
    assert small and address.startswith("data:image/png;base64,")
    address, small = thumbnail(staging.picture(1, side=2000))
    assert not small and address.startswith("data:image/jpeg;base64,") and len(address) < 20_000
    for cell in ({"path": str(tmp_path / "gone.png"), "bytes": None}, {"bytes": b"<svg>"}):
        assert thumbnail(cell) == ("", False)


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = ["--headless", "--no-sandbox", "--no-first-run"] + [
    f"--disable-{part}"
    for part in ("gpu", "quic", "sync", "background-networking", "component-update")
]


def opened(path: Path, profile: Path) -> str:
    """Return the page as a browser has it after all scripts ran."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.browser
def test_no_script_runs_in_a_browser(hostile, tmp_path):
    assert CHROMIUM, "this test needs Chromium: apt-get install chromium"
    path = tmp_path / "control.html"
    path.write_text(f"<title>calm</title><p>{HOSTILE[0]}{HOSTILE[1]}", "utf-8")
    assert "<title>PWNED</title>" in opened(path, tmp_path / "profile")
    # Once as it is, and once with nothing but the escaping to protect the reader.
    bare = re.sub(r"<meta http-equiv=[^>]*>", "", hostile)
    assert bare != hostile
    for content in (hostile, bare):
        path.write_text(content, "utf-8")
        shown = opened(path, tmp_path / "profile")
        elements = Elements(shown)
        assert elements.count("script") == 0 and elements.count("img") == 24
        title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
        assert (
            title is not None and "PWNED" in title.group(1) and "&lt;script&gt;" in title.group(1)
        )
