"""Make the pictures of docs/gallery.md and of the README again.

Each command is run, and what it wrote is photographed in Chromium:

PYTHONPATH=. python docs/_site/pictures.py --work pictures/

A command is not run again if its output is in the folder already. A picture of a page is a PNG of few colours, below
100 kB; what is drawn as a small SVG stays one.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.wikidata_cache.chromium import Chromium, Page, running

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"  # those of the README
GALLERY = PICTURES / "gallery"
LARGEST = 100_000  # bytes of a picture
COLOURS = 64
PATIENCE = 900  # seconds for an edit
SHARPNESS = 1.5  # pixels of a picture for a pixel of the page

SONY = {
    "subject": "Sony",
    "prompt": "The country of {} is",
    "relation": "country",
    "relation_id": "P17",
    "target_new": "Bulgaria",
    "target_new_id": "Q219",
}
TOWER = {
    "subject": "The Eiffel Tower",
    "prompt": "{} is in the city of",
    "target_true": "Paris",
    "target_new": "Rome",
}
QUESTION = "Question: What is the capital of the country of Sony?\nAnswer:"
COMMANDS = {  # what each one writes -> its words after kg-edit
    "demo": ["demo", "--out", "demo"],
    "memory": ["edit", "sony.jsonl", "--method", "graph-memory", "--graph", "ripples-smollm2-135m", "--out", "memory"],
    "walk.svg": ["generate", "--patch", "memory", "--picture", "walk.svg", QUESTION],
    "locate": ["locate", "tower.jsonl", "--out", "locate"],
}
FIRST_EDIT = "document.getElementById('edit-1')"


def run_commands(work: Path) -> None:
    """Run the commands whose outputs are not in the folder yet."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "sony.jsonl").write_text(json.dumps(SONY) + "\n", encoding="utf-8")
    (work / "tower.jsonl").write_text(json.dumps(TOWER) + "\n", encoding="utf-8")
    for output, words in COMMANDS.items():
        if not (work / output).exists():
            subprocess.run([sys.executable, "-m", "kg_edit", *words], cwd=work, check=True)  # noqa: S603 - our own words


def photograph(page: Page, name: str, element: str, height: float = 1000, folder: Path = GALLERY) -> None:
    """Write the picture of an element of a page, given as JavaScript, down to at most this height."""
    box = page.value(
        f"(b => [b.left + scrollX, b.top + scrollY, b.width, b.height])({element}.getBoundingClientRect())"
    )
    clip = {"x": box[0], "y": box[1], "width": box[2], "height": min(box[3], height), "scale": SHARPNESS}
    page.call("Page.bringToFront")  # a tab behind another one is not painted
    shot = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"])))
    file = folder / f"{name}.png"
    picture.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    size = file.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{file}: {size} bytes, expected at most {LARGEST}")


def opened(browser: Chromium, place: Path | str, width: int, scheme: str = "light") -> Page:
    """Open a file or an address in a window of this width, in the light or the dark scheme."""
    page = browser.opened(place)
    page.show(width, scheme)
    return page


def photograph_files(browser: Chromium, work: Path) -> None:
    """Photograph the report, a trace, and the chart of growth."""
    report = opened(browser, work / "demo" / "report.html", 1100)
    photograph(report, "report", "document.body", height=640, folder=PICTURES)
    dark_report = opened(browser, work / "demo" / "report.html", 1100, scheme="dark")
    photograph(dark_report, "report-dark", "document.body", height=640, folder=PICTURES)
    photograph(report, "before-after", f"{FIRST_EDIT}.querySelector('table.probes')")
    photograph(report, "loss", f"{FIRST_EDIT}.querySelector('svg.chart').parentElement")
    for name, file in (("trace", work / "locate" / "heatmap.svg"), ("growth", ROOT / "docs" / "growth.svg")):
        photograph(opened(browser, file, 1000), name, "document.documentElement")
    shutil.copy(work / "walk.svg", GALLERY / "walk.svg")
    shutil.copy(next((work / "demo").glob("subgraph-*.svg")), GALLERY / "subgraph.svg")


def answers(port: int) -> bool:
    """Return whether something on this machine listens at the port."""
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(work: Path) -> Iterator[str]:
    """Serve the page with a new ledger; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shutil.rmtree(work / "ledger", ignore_errors=True)
    words = ["serve", "--model", "smollm2-135m", "--method", "rome", "--ledger", "ledger", "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-m", "kg_edit", *words], cwd=work)  # noqa: S603 - our own words
    try:
        while not answers(port):
            if server.poll() is not None:
                raise SystemExit("kg-edit serve has ended")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait()


def wait(page: Page, expression: str) -> None:
    """Wait until a page's expression holds: the first edit measures C, which takes minutes on a busy machine."""
    end = time.monotonic() + PATIENCE
    while not page.value(expression):
        if time.monotonic() > end:
            raise SystemExit(f"after {PATIENCE} s this does not hold: {expression}")
        time.sleep(0.5)


def try_edit(page: Page, subject: str, prompt: str, target_new: str, probe: str) -> None:
    """Fill in the form of the served page, and make the edit."""
    for field, text in (("subject", subject), ("prompt", prompt), ("target_new", target_new)):
        page.value(f"document.getElementById('{field}').focus(), document.getElementById('{field}').select()")
        page.type(text)
    page.value("document.querySelector('.probe').focus(), document.querySelector('.probe').select()")
    page.type(probe)
    page.value("document.getElementById('go').click()")
    wait(page, "document.getElementById('status').classList.contains('done')")


def photograph_served_page(browser: Chromium, work: Path) -> None:
    """Make two edits on the served page; photograph the first try, and the ledger with both."""
    with serving(work) as address:
        page = opened(browser, address, 1180)
        page.until("document.getElementById('about')?.textContent.includes('rome')")
        tower = ("The Eiffel Tower", "{} is in the city of", "Rome", "The Louvre is in the city of")
        try_edit(page, *tower)
        page.call("Page.reload")
        page.until("document.getElementById('about')?.textContent.includes('rome')")
        try_edit(page, *tower)  # the first one has measured C, so this one shows the time of an edit
        photograph(page, "page", "document.querySelector('main')", folder=PICTURES)
        page.show(1180, "dark")
        photograph(page, "page-dark", "document.querySelector('main')", folder=PICTURES)
        page.show(1180)
        add = "document.getElementById('add-edit').click()"
        page.value(add)
        wait(page, "document.querySelectorAll('#entries tbody tr').length === 1")
        try_edit(page, "Mount Fuji", "{} is a mountain in the country of", "Norway", "The Louvre is in the city of")
        page.value(add)
        wait(page, "document.querySelectorAll('#entries tbody tr').length === 2")
        photograph(page, "ledger", "document.getElementById('ledger')")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="the folder in which the commands are run")
    work = parser.parse_args(arguments).work.resolve()
    os.environ["PYTHONPATH"] = str(ROOT)  # of the commands, which run in another folder
    GALLERY.mkdir(parents=True, exist_ok=True)
    run_commands(work)
    subprocess.run([sys.executable, str(ROOT / "studies" / "draw_lasting.py")], check=True)  # noqa: S603 - our own
    with running() as browser:
        photograph_files(browser, work)
        photograph_served_page(browser, work)


if __name__ == "__main__":
    main()
