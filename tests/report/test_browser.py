"""The page as people see it: in a headless Chromium without a network, as wide as a desk's screen and as a phone's.

Pictures of the page are left in the test's folder. Without a Chromium on the path (scripts/setup.sh installs one where
it can) these tests are left out.
"""

import os
import shutil

import pytest
from results import hundred, write_competition, write_run

from verifier import cli

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on the path")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    run = write_run(root / "run", hundred())
    known = write_competition(root / "known.csv", [(r, "unsat", r["seconds"] * 2) for r in hundred()])
    out = root / "page.html"
    assert cli.main(["report", str(run), "--published", str(known), "-o", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=[*sandbox, "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (1280, "dark"), (360, "light")])
def test_the_page_opens_without_a_complaint(page, browser, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 780}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    said, asked = [], []
    tab.on("console", lambda m: said.append(f"{m.type}: {m.text}"))
    tab.on("pageerror", lambda e: said.append(str(e)))
    tab.on("request", lambda r: asked.append(r.url))
    tab.goto(page.as_uri())
    picture = tmp_path / f"page_{width}_{scheme}.png"
    tab.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    assert tab.title() == "Results: run" and said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    # nothing is wider than the screen but what scrolls by itself
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    sizes = tab.evaluate("[...document.querySelectorAll('figure svg')].map(s => [s.clientWidth, s.clientHeight])")
    assert len(sizes) == 4 and all(250 <= w < width and h > 80 for w, h in sizes)
    letters = "[...document.querySelectorAll('figure svg text')].map(t => t.getBoundingClientRect().height)"
    assert min(tab.evaluate(letters)) >= 6
    ground, ink = tab.evaluate("['backgroundColor', 'color'].map(p => getComputedStyle(document.body)[p])")
    assert (brightness(ground) < brightness(ink)) == (scheme == "dark")
    axis = tab.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert axis == ink
    context.close()


def brightness(colour):
    return sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3]))


def test_columns_sort(page, browser):
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.click("summary")
    long = tab.locator("#all-instances table")
    seconds = lambda: [float(t) for t in long.locator("tbody td:nth-child(3)").all_inner_texts()]
    before = seconds()
    long.locator("th:nth-child(3) button").click()
    assert seconds() == sorted(before) != before and len(before) == 100
    long.locator("th:nth-child(3) button").click()
    assert seconds() == sorted(before, reverse=True)
    tab.locator("#by-benchmark th:nth-child(1) button").click()
    tab.locator("#by-benchmark th:nth-child(1) button").click()
    assert tab.locator("#by-benchmark tr td:first-child").all_inner_texts()[-1] == "total"
    tab.close()
