"""Links to the dashboard: what a URL says is what somebody else wrote."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from hermes_lab import bundled
from tests.fuzz.cases import Case, Fault, Target

_APP = Path(__file__).resolve().parents[2] / "dashboards" / "app.py"
_PAGES = ("live", "why", "atlas", "lab", "findings", "recordings")
_VALUES = (
    "", "0", "1", "-1", "999999999", "1e999", "nan", "x" * 5000, "../../etc/passwd", "/etc/passwd", "bundled",
    "<script>alert(1)</script>", "fifo(budget_tokens=" + "9" * 400 + ")", "fifo(" * 200, "-" * 3000, "[/x]", "%00",
    "\0", "\ud800".encode("utf-8", "replace").decode(), "a/b", "evil/repo", "hermes:released", "world:frames=1e99",
    "rtsp://127.0.0.1:1/x", "file:///etc/passwd", "é\u2028\u202e", "0:99999999", "$x$ ![p](http://127.0.0.1:1/p)",
    "one", "why", "grid", "all", "3.5",
)  # fmt: skip
_NAMES = (
    "recording", "other", "step", "layer", "head", "frame", "token", "group", "metric", "mode", "source", "model",
    "policy", "chunk", "worlds", "fps", "speed", "film", "frames", "weighting", "sinks", "question", "questions",
    "claim", "nobody",
)  # fmt: skip
_PATIENCE_S = 120


class Links(Target):
    """A page opened by an address with odd parameters."""

    name = "link"

    def prepare(self, folder: Path) -> None:
        shutil.copytree(bundled.recording_path(), folder / "runs" / "one")
        os.environ["HERMES_LAB_RECORDINGS"] = str(folder / "runs")
        os.environ["HERMES_LAB_REPORTS"] = str(folder / "reports")

    def draw(self, rng: random.Random) -> Case:
        names = rng.sample(_NAMES, rng.randint(1, 5))
        link = {"page": rng.choice(_PAGES)} | {name: rng.choice(_VALUES) for name in names}
        return {"link.json": json.dumps(link).encode()}

    def run(self, case: Case, folder: Path) -> None:
        from streamlit.testing.v1 import AppTest
        from streamlit.util import calc_hash

        params = json.loads(case["link.json"])
        page = params.pop("page")
        app = AppTest.from_file(str(_APP), default_timeout=_PATIENCE_S)
        for name, value in params.items():
            app.query_params[name] = value
        if page != "live":
            # before its first run an AppTest knows pages by the names of their files, which are all alike
            app._page_hash = calc_hash(page)
        app.run()
        if app.exception:
            first = app.exception[0]
            raise Fault(f"{first.message}\n{''.join(first.stack_trace)[-1500:]}")
