"""The report in a real browser: no overflow, no overlapping text, nothing else asked for.

Skipped without Chromium. The wrapper is a page of the same origin that measures the report in two
frames, with the widths of a phone and of a laptop.
"""

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from study_folders import draw, grid, make, write_predictions

import kdtune
from kdtune.reporting.build import html
from kdtune.reporting.canvas import inline
from kdtune.reporting.figures import all_figures
from kdtune.results.comparison import Criterion
from kdtune.results.results import Results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

WIDTHS = (390, 1280)
WRAPPER = Path(__file__).with_name("wrapper.html")


def open_in_browser(folder: Path, scratch: Path) -> tuple[dict[str, Any], list[str], str]:
    """Return measurements by width, served paths and the console output.

    It violates the page's policy, which is on the console, to ask for anything else.
    """
    wrapper = WRAPPER.read_text().replace("WIDTHS", json.dumps(WIDTHS))
    (folder / "wrapper.html").write_text(wrapper)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    flags += [f"--user-data-dir={scratch / 'profile'}"]
    flags += ["--enable-logging=stderr", "--window-size=1400,1000"]
    flags += ["--virtual-time-budget=20000", "--dump-dom"]
    url = f"http://127.0.0.1:{server.server_port}/wrapper.html"
    try:
        done = subprocess.run(
            [CHROMIUM, *flags, url], capture_output=True, text=True, timeout=240, check=True
        )
    finally:
        server.shutdown()
        server.server_close()
    output = re.search(r"<output>(.*)</output>", done.stdout, re.DOTALL)
    assert output, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(unescape(output[1])), asked, done.stderr


def test_the_report_in_a_browser(tmp_path: Path) -> None:
    """Of long names and words, many rows, a heat map and importance."""
    runs = grid([0.1, 0.3, 0.9, 1.0], temperature=[1.0, 4.0], lr=[0.0123, 0.123])
    last = draw({run: 0.02 * (run.alpha == 0.3) for run in runs}, 3)
    made = make(tmp_path / "study", last, {(runs[0], 1): "failed"}, error="word" * 100)
    write_predictions(made, classes=[f"class {i}" for i in range(12)], images=60)
    made = kdtune.load(made.folder)
    figures = {figure.name: inline(figure) for figure in all_figures(made, Criterion())}
    text = html(made, Criterion(), figures)
    (made.folder / "report.html").write_text(text, "utf-8")
    static = [re.sub(r"<[^>]+>", "", x) for x in re.findall(r"<td>(.*?)</td>", text, re.DOTALL)]
    static = [" ".join(unescape(cell).split()) for cell in static]
    found, served, console = open_in_browser(made.folder, tmp_path)
    assert sorted(set(served)) == ["/report.html", "/wrapper.html"]
    assert "CONSOLE" not in console, console
    for width in WIDTHS:
        page = found[str(width)]
        assert width - 20 < page["client"] <= width  # its scroll bar
        assert page["scroll"] <= page["client"], page["wide"]
        assert page["wide"] == []
        assert page["overlaps"] == [] and page["outside"] == []
        assert "gradient" in page["hint"]  # at the side where a wide table goes on
        assert page["figures"] >= 13
        assert page["verdict"] == made.verdict()
        assert sorted(page["cells"]) == sorted(static)  # no number comes from the script
        check_interaction(page["use"], made)


def check_interaction(seen: dict[str, Any], made: Results) -> None:
    """Check what the script did: it sorted, filtered, chose a comparison and hid a curve."""
    first = [float(value) for value in seen["ascending"]]
    assert first == sorted(first) and len(set(first)) > 1
    assert [float(value) for value in seen["descending"]] == first[::-1]
    assert seen["filtered"] == 1
    assert seen["choices"] == [1, 1] and seen["chosen"] == seen["metrics"][1]
    assert seen["metrics"][0] == "validation accuracy"
    assert seen["boxes"] == min(7, made.trials.config_id.nunique())
    before, after = seen["groups"]
    assert 0 < after < before
