"""What may be streamed: the bundled clip, a procedural world, an upload, a camera. No other path on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import streamlit as st

from dashboards.parts import keys
from dashboards.parts.keys import Slot
from dashboards.parts.page_parts import refuse
from dashboards.parts.plain_text import plain
from dashboards.parts.resources import session_resources
from dashboards.parts.state import ViewState, lasting
from hermes_lab.errors import LabError
from hermes_lab.worlds import HELD_OUT_SEEDS, bundled
from hermes_lab.worlds.schedule import Camera

CLIP, WORLD, UPLOAD, CAMERA = "Bundled clip", "Procedural world", "Upload", "Camera"
CAMERAS: tuple[Camera, ...] = get_args(Camera)
UPLOAD_TYPES = ["mp4", "mkv", "mov", "webm", "avi", "gif", "m4v", "ts"]


@dataclass(frozen=True)
class Source:
    """A source that the person chose.

    Attributes:
        path: what `hermes_lab.video.open` takes.
        spec: what the URL may carry (empty for uploads, which end with their session).
        world: seed, frames and camera, where the stream is a procedural world with questions.
    """

    path: str
    label: str
    spec: str
    max_frames: int | None = None
    world: tuple[int, int, Camera] | None = None


UPLOADED: Slot[Source | str] = Slot(keys.UPLOADED)
"""The last upload of a browser session, or the sentence that refused it."""


def source_picker(view: ViewState) -> Source | None:
    """Choose a source; None where the choice is not complete, with a sentence on the page."""
    kind, seed, frames, camera = _from_spec(view.source)
    kinds = [CLIP, WORLD, UPLOAD, CAMERA]
    lasting(keys.SOURCE_KIND, kind)
    kind = st.selectbox("Source", kinds, key=keys.SOURCE_KIND)
    if kind == CLIP:
        return Source(
            str(bundled.clip_path()),
            bundled.clip_path().name,
            "",
            world=(bundled.SEED, bundled.FRAMES, "still"),
        )
    if kind == WORLD:
        left, right = st.columns(2)
        lasting(keys.SEED, seed)
        lasting(keys.FRAMES, frames)
        lasting(keys.CAMERA, camera)
        seed = int(left.number_input("Seed", 0, HELD_OUT_SEEDS.stop - 1, key=keys.SEED))
        frames = int(right.number_input("Frames", 8, 4096, step=8, key=keys.FRAMES))
        camera = st.segmented_control("Camera", CAMERAS, key=keys.CAMERA) or "still"
        spec = f"world:seed={seed},frames={frames}" + (
            "" if camera == "still" else f",camera={camera}"
        )
        return Source(spec, spec, spec, world=(seed, frames, camera))
    if kind == CAMERA:
        lasting(keys.CAMERA_NUMBER, 0)
        number = int(
            st.number_input(
                "Camera of the machine that runs this app", 0, 9, key=keys.CAMERA_NUMBER
            )
        )
        return Source(f"camera:{number}", f"camera {number}", "")
    return _upload()


def _upload() -> Source | None:
    given = st.file_uploader(
        "Video file",
        type=UPLOAD_TYPES,
        key=keys.UPLOAD,
        help="At most 200 MB and four hours; it stays on this machine and is removed with this browser session.",
        on_change=_upload_changed,
    )
    if given is not None and UPLOADED.get() is None:
        try:
            path = session_resources().keep_upload(given.name, given.getvalue())
            UPLOADED.set(Source(str(path), given.name, ""))
        except LabError as error:
            UPLOADED.set(str(error))
    kept = UPLOADED.get()
    if isinstance(kept, str):
        refuse(kept)
        return None
    if kept is None:
        st.caption("Choose a video file to stream.")
    elif given is None:  # the page was left: the file is still here, though the box above is empty
        st.caption(f"{plain(kept.label)} is still here; choose another file to replace it.")
    return kept


def _upload_changed() -> None:
    UPLOADED.pop()


def _from_spec(spec: str) -> tuple[str, int, int, Camera]:
    """Kind, seed, frames and camera that a link asks for."""
    from hermes_lab.video.world import parse_world

    if spec.startswith("world:"):
        try:
            found = parse_world(spec)
        except LabError:
            return CLIP, 7, 120, "still"
        by_name: dict[str, Camera] = {camera: camera for camera in CAMERAS}
        camera = by_name.get(str(found.get("camera", "still")))
        seed, frames = int(found["seed"]), int(found["frames"])
        if camera is not None and seed in HELD_OUT_SEEDS and 8 <= frames <= 4096:
            return WORLD, seed, frames, camera
    return CLIP, 7, 120, "still"
