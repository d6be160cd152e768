"""Recordings: what is on disk, how large it is, how two of them compare; download, and delete when asked twice."""

from __future__ import annotations

import streamlit as st

from dashboards.parts import keys, state
from dashboards.parts.keys import Slot
from dashboards.parts.page_parts import about, caution, chart, go_to, offer, refuse
from dashboards.parts.plain_text import code, plain, portable, printable
from dashboards.parts.policy_text import short_spec
from dashboards.parts.resources import being_made, recording_of
from dashboards.parts.store import Store
from hermes_lab import figures
from hermes_lab.brief import bytes_text
from hermes_lab.errors import LabError
from hermes_lab.recording import Manifest, RecordingEntry, diff, difference

DELETING: Slot[str] = Slot(keys.DELETING)
DELETED: Slot[str] = Slot(keys.DELETED)
"""The recording whose deletion was asked for once, and the one that was deleted a moment ago."""


def table(found: list[tuple[str, RecordingEntry]], store: Store) -> None:
    facts = [
        {
            "name": name,
            "created (UTC)": e.manifest.created[:19].replace("T", " ") if e.manifest else "",
            "status": e.manifest.status if e.manifest else "unreadable",
            "model": e.manifest.model.name.rstrip("/").rsplit("/", 1)[-1] if e.manifest else "",
            "policy": short_spec(e.manifest.policy) if e.manifest else "",
            "source": e.manifest.source.name if e.manifest else "",
            "steps": e.steps,
            "answers": e.answers,
            "size": bytes_text(e.size_bytes),
        }
        for name, e in found
    ]
    rows = [{k: printable(v) if isinstance(v, str) else v for k, v in f.items()} for f in facts]
    st.dataframe(rows, hide_index=True, width="stretch", key="recordings-table")
    offer(
        key="recordings-table-files", name="recordings", rows=(tuple(rows[0]), [tuple(r.values()) for r in rows]),
        code=f"""
from hermes_lab.recording import list_recordings

for entry in list_recordings({str(store.root)!r}):
    print(entry.folder, entry.steps, entry.answers, entry.size_bytes, entry.problem or "")
""",
    )  # fmt: skip
    own = [e.size_bytes for name, e in found if name != state.BUNDLED]
    st.caption(f"Folder {code(store.root)}: {bytes_text(sum(own))} in {len(own)} recordings.")
    about(
        "every recording in the folder that this app was started with, and the one that ships with the package.",
        "whether a recording is sound to its last byte; open it, or run `hermes-lab show --verify`.",
    )
    for name, entry in found:
        if entry.problem:
            caution(f"{name}: {entry.problem}")


def one(store: Store, name: str) -> None:
    """A recording's summary, and what can be done with it."""
    try:
        recording = recording_of(name)
        summary = recording.summary()
        left_out = store.left_out(name)
    except LabError as error:
        refuse(error)
        return
    said = summary.to_text().replace(str(recording.folder), name)
    st.code(printable(said), language=None, wrap_lines=True)
    links = st.columns(5)
    with links[0]:
        go_to("live", "Replay it", mode="", step=None)
    with links[1]:
        go_to("why", "Ask why")
    with links[2]:
        go_to("atlas", "Its attention")
    links[3].download_button(
        "Download as zip", lambda: store.zipped(name), file_name=f"{portable(name)}.zip", mime="application/zip",
        key="recordings-zip", on_click="ignore",
    )  # fmt: skip
    if left_out:
        caution(
            f"The zip leaves out {str(left_out[0])!r}"
            + (f" and {len(left_out) - 1} more" if len(left_out) > 1 else "")
            + ", which is not part of a recording, or a link."
        )
    with links[4]:
        delete(store, name)
    line = recording.timeline
    left, right = st.columns(2)
    recipe = f"""
from hermes_lab import figures
from hermes_lab.recording import Recording

line = Recording.open({str(recording.folder)!r}).timeline
figures.memory_curves({{{name!r}: (line.time_s, line.cache_bytes)}}).show()
figures.step_times(line.time_s, line.timings).show()
"""
    with left:
        chart(
            figures.memory_curves({name: (line.time_s, line.cache_bytes)}), key="recordings-memory", name=f"{name}-memory",
            alt="Bytes of the KV cache over stream time", code=recipe,
            rows=(("time_s", "cache_bytes"), list(zip(line.time_s.tolist(), line.cache_bytes.tolist(), strict=True))),
        )  # fmt: skip
    with right:
        parts = list(line.timings)
        chart(
            figures.step_times(line.time_s, line.timings), key="recordings-times", name=f"{name}-times",
            alt="Milliseconds of each feed step by part", code=recipe,
            rows=(("time_s", *parts), list(zip(line.time_s.tolist(), *(line.timings[p].tolist() for p in parts), strict=True))),
        )  # fmt: skip
    about(
        "bytes of keys and values after every step, and where the time of a step went.",
        "how fast another machine would be; times are those of the machine that recorded.",
    )


def delete(store: Store, name: str) -> None:
    """Asked once by the button, and a second time in words."""
    if name == state.BUNDLED:
        st.caption("The bundled recording stays.")
        return
    if st.button("Delete ...", key="recordings-delete"):
        DELETING.set(name)
    if DELETING.get() != name:
        return
    caution(f"Delete {name!r} from disk for good?")
    if st.button("Yes, delete it", key="recordings-delete-sure", type="primary"):
        DELETING.pop()
        try:
            store.delete(name)
        except (LabError, OSError) as error:
            refuse(error)
            return
        state.forget(keys.RECORDING)
        DELETED.set(name)
        state.change_recording(state.BUNDLED)
        st.rerun()
    if st.button("Keep it", key="recordings-delete-no"):
        DELETING.pop()
        st.rerun()


def choose_other(manifests: dict[str, Manifest], name: str, view: state.ViewState) -> str | None:
    """The recording to compare with: one of the same stream."""
    st.subheader("Compare", anchor=False)
    apart = {n: difference(manifests[name], m) for n, m in manifests.items() if n != name}
    others = [n for n, differing in apart.items() if differing is None]
    if (differing := apart.get(view.other)) is not None:
        caution(f"{view.other!r} cannot be compared with {name!r}: their {differing}.")
    if not others:
        st.info("Record the same stream under another policy to compare.")
        return None
    state.initial(keys.OTHER, view.other if view.other in others else None, among=[None, *others])
    other = st.selectbox(
        "Compare with",
        others,
        key=keys.OTHER,
        index=None,
        placeholder="Another recording of the same stream",
    )
    state.write(other=other or "")
    return other


def compare(name: str, other: str) -> None:
    """How far two recordings of one stream keep the same tokens."""
    try:
        first, second = recording_of(name), recording_of(other)
        agreement = diff(first, second)
    except LabError as error:
        refuse(error)
        return
    st.markdown(
        f"Of the tokens that either holds, both hold **{agreement.mean:.0%}** (mean over steps and layers)."
    )
    chart(
        figures.agreement_over_time(agreement.frames_seen, agreement.jaccard), key="recordings-diff", name=f"{name}-{other}",
        alt=f"Agreement of {name} and {other} by layer over the stream",
        code=f"""
from hermes_lab import figures
from hermes_lab.recording import Recording, diff

agreement = diff(Recording.open({str(first.folder)!r}), Recording.open({str(second.folder)!r}))
figures.agreement_over_time(agreement.frames_seen, agreement.jaccard).show()
""",
        rows=(
            ("frames_seen", *(f"layer_{n}" for n in range(agreement.jaccard.shape[1]))),
            [(int(f), *map(float, row)) for f, row in zip(agreement.frames_seen, agreement.jaccard, strict=True)],
        ),
    )  # fmt: skip
    about(
        "shared tokens over tokens that either recording holds, by layer, after every common step.",
        "which of the two keeps the better tokens; two policies can agree and both be wrong.",
    )


view = state.open_page("recordings")
st.title("Recordings", anchor=False)
store = Store.from_environment()
if gone := DELETED.pop():
    st.success(f"{plain(repr(gone))} is deleted.")
found = store.listing()
if not found:
    st.info(
        "There is no recording yet. Run one on the Live page, or with `hermes-lab run --record runs/first`."
    )
else:
    table(found, store)
    manifests = {name: e.manifest for name, e in found if e.manifest is not None}
    names = list(manifests)
    if view.recording not in names and being_made(view.recording):
        st.stop()  # choosing another one here would lose it from view
    if view.recording not in names and view.recording != state.BUNDLED:
        caution(f"There is no recording {view.recording!r} here.")
    shown = view.recording if view.recording in names else names[0]
    state.initial(keys.RECORDING, shown, among=names)
    name = st.selectbox("Open", names, key=keys.RECORDING)
    if name != view.recording:
        state.change_recording(name)
    summary = st.container()
    other = choose_other(manifests, name, view)  # first, so that the links above carry it
    with summary:
        one(store, name)
    if other is not None:
        compare(name, other)
