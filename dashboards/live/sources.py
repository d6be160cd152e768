"""What may be streamed: the bundled clip, a procedural world, an upload, a camera. No other path on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import streamlit as st

from dashboards.parts.page_parts import refuse
from dashboards.parts.plain_text import plain
from dashboards.parts.resources import things
from dashboards.parts.state import ViewState, lasting
from hermes_lab.errors import LabError
from hermes_lab.worlds import HELD_OUT_SEEDS, bundled
from hermes_lab.worlds.schedule import Camera

CLIP, WORLD, UPLOAD, CAMERA = "Bundled clip", "Procedural world", "Upload", "Camera"
CAMERAS: tuple[Camera, ...] = get_args(Camera)
UPLOADED = "uploaded"
"""Where a browser session keeps its last upload: a `Source`, or the sentence that refused it."""
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


def source_picker(view: ViewState) -> Source | None:
    """Choose a source; None where the choice is not complete, with a sentence on the page."""
    kind, seed, frames, camera = _from_spec(view.source)
    kinds = [CLIP, WORLD, UPLOAD, CAMERA]
    lasting("w_source_kind", kind)
    kind = st.selectbox("Source", kinds, key="w_source_kind")
    if kind == CLIP:
        return Source(
            str(bundled.clip_path()),
            bundled.clip_path().name,
            "",
            world=(bundled.SEED, bundled.FRAMES, "still"),
        )
    if kind == WORLD:
        left, right = st.columns(2)
        lasting("w_seed", seed)
        lasting("w_frames", frames)
        lasting("w_camera", camera)
        seed = int(left.number_input("Seed", 0, HELD_OUT_SEEDS.stop - 1, key="w_seed"))
        frames = int(right.number_input("Frames", 8, 4096, step=8, key="w_frames"))
        camera = st.segmented_control("Camera", CAMERAS, key="w_camera") or "still"
        spec = f"world:seed={seed},frames={frames}" + (
            "" if camera == "still" else f",camera={camera}"
        )
        return Source(spec, spec, spec, world=(seed, frames, camera))
    if kind == CAMERA:
        lasting("w_camera_no", 0)
        number = int(
            st.number_input("Camera of the machine that runs this app", 0, 9, key="w_camera_no")
        )
        return Source(f"camera:{number}", f"camera {number}", "")
    return _upload()


def _upload() -> Source | None:
    given = st.file_uploader(
        "Video file",
        type=UPLOAD_TYPES,
        key="w_upload",
        help="At most 200 MB and four hours; it stays on this machine and is removed with this browser session.",
        on_change=_upload_changed,
    )
    if given is not None and UPLOADED not in st.session_state:
        try:
            path = things().keep_upload(given.name, given.getvalue())
            st.session_state[UPLOADED] = Source(str(path), given.name, "")
        except LabError as error:
            st.session_state[UPLOADED] = str(error)
    kept: Source | str | None = st.session_state.get(UPLOADED)
    if isinstance(kept, str):
        refuse(kept)
        return None
    if kept is None:
        st.caption("Choose a video file to stream.")
    elif given is None:  # the page was left: the file is still here, though the box above is empty
        st.caption(f"{plain(kept.label)} is still here; choose another file to replace it.")
    return kept


def _upload_changed() -> None:
    st.session_state.pop(UPLOADED, None)


def _from_spec(spec: str) -> tuple[str, int, int, Camera]:
    """Kind, seed, frames and camera that a link asks for."""
    from hermes_lab.video.world import parse_world

    if spec.startswith("world:"):
        try:
            found = parse_world(spec)
        except LabError:
            return CLIP, 7, 120, "still"
        cameras = [c for c in CAMERAS if c == found.get("camera", "still")]
        seed, frames = int(found["seed"]), int(found["frames"])
        if cameras and seed in HELD_OUT_SEEDS and 8 <= frames <= 4096:
            return WORLD, seed, frames, cameras[0]
    return CLIP, 7, 120, "still"
