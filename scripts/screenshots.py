"""Pictures of every page, light and dark, and a short moving one of Live, for the README: docs/images/.

    python scripts/screenshots.py [--model pocket]

Starts the dashboard on a temporary folder of recordings, runs one stream and one comparison there with the model,
and drives Chromium through the pages.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.dashboard_browser import ROOT, chromium, server, settled

IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1280, "height": 800}
LARGEST_BYTES = 250_000
LARGEST_MOVING_BYTES = 1_500_000
PATIENCE_MS = 900_000
MOVING_FRAMES = 40
SHOTS = {
    "live": "/?step={step}&layer=9&token=473",
    "why": "/why?layer=9&token=176",
    "atlas": "/atlas?metric=recency&layer=6&head=1",
    "recordings": "/recordings",
    "findings": "/findings",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--only", default="", help="names of pages, separated by commas")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as address,
        chromium() as browser,
    ):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme)
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            for name, path in SHOTS.items():
                if not only or name in only:
                    page.goto(address + path.format(step=6))
                    shoot(page, f"{name}-{scheme}")
            if not only or "lab" in only:
                page.goto(f"{address}/lab?source=world:seed%3D7,frames%3D48&model={options.model}")
                settled(page)
                page.get_by_role("button", name="Compare").click()
                expect(page.get_by_text("What they keep")).to_be_visible(timeout=PATIENCE_MS)
                shoot(page, f"lab-{scheme}")
            context.close()
        if not only or "moving" in only:
            moving(browser, address)
    return 0


def shoot(page: Page, name: str) -> None:
    """One page at rest, as a small PNG."""
    settled(page, PATIENCE_MS / 1000)
    if not name.startswith(("findings", "recordings", "atlas")):
        page.wait_for_function("(window.__hermesStripDraws || 0) >= 1")
    if not name.startswith("live"):
        page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
    page.wait_for_timeout(6000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    target = IMAGES / f"{name}.png"
    for colours in (256, 128, 64):
        picture.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= LARGEST_BYTES:
            break
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def moving(browser: Browser, address: str) -> None:
    """Live while the bundled recording plays."""
    context = browser.new_context(viewport={"width": 1280, "height": 640})
    page = context.new_page()
    page.goto(f"{address}/?step=0")
    settled(page, 120)
    page.get_by_role("button", name="Play", exact=True).click()
    frames: list[Image.Image] = []
    for _ in range(MOVING_FRAMES):
        page.wait_for_timeout(250)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        frames.append(shot.resize((960, 480), Image.Resampling.LANCZOS))
    context.close()
    target = IMAGES / "live.webp"
    for quality in (70, 50, 30):
        frames[0].save(
            target,
            save_all=True,
            append_images=frames[1:],
            duration=300,
            loop=0,
            quality=quality,
            method=4,
        )
        if target.stat().st_size <= LARGEST_MOVING_BYTES:
            break
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
