"""Cases on disk, and the rule that each is held to."""

from __future__ import annotations

import os
import random
import re
from abc import ABC, abstractmethod
from pathlib import Path

from hermes_lab.errors import LabError

Case = dict[str, bytes]
"""Contents by path; the two below stand for what is no content."""

GONE, PIPE, LINK = b"\0GONE\0", b"\0PIPE\0", b"\0LINK\0"
_LONGEST_SENTENCE = 2000


class Fault(Exception):
    """A case broke the rule."""


class Target(ABC):
    """One kind of input that comes from outside.

    Attributes:
        name: as for `make fuzz ONLY=...`, and the folder in tests/corpus.
    """

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make the sound inputs once, in a folder of their own."""

    @abstractmethod
    def draw(self, rng: random.Random) -> Case:
        """Damage one of them."""

    @abstractmethod
    def run(self, case: Case, folder: Path) -> None:
        """Use a case as the program would; `folder` is empty.

        Raises:
            LabError: it was refused.
            Fault, anything else: the rule is broken.
        """


def judge(target: Target, case: Case, root: Path) -> str:
    """Run a case in a folder of its own below `root`: "right" or "refused".

    Raises:
        Fault: the rule is broken; its cause is what happened.
    """
    folder, home = root / "case", root / "home"
    for path in (folder, home):
        path.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(home)
    try:
        target.run(case, folder)
        verdict = "right"
    except LabError as error:
        _check_sentence(str(error))
        verdict = "refused"
    except Fault:
        raise
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {error}"[:500]) from error
    finally:
        os.chdir(before)
    if written := [path for path in root.iterdir() if path not in (folder, home)]:
        raise Fault(f"wrote {written[0].name!r} beside its folder")
    if written := list(home.iterdir()):
        raise Fault(f"wrote {written[0].name!r} where it was started")
    return verdict


def _check_sentence(sentence: str) -> None:
    if not sentence.strip() or "\n" in sentence.strip() or "Traceback" in sentence:
        raise Fault(f"no sentence: {sentence[:300]!r}")
    if len(sentence) > _LONGEST_SENTENCE:
        raise Fault(f"a sentence of {len(sentence)} characters: {sentence[:200]!r}")


def lay(case: Case, folder: Path) -> None:
    """Put a case's files over what is in a folder."""
    for name, data in case.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            path.unlink()
        if data == PIPE:
            os.mkfifo(path)
        elif data.startswith(LINK):
            path.symlink_to(data[len(LINK) :].decode())
        elif data != GONE:
            path.write_bytes(data)


def save(case: Case, folder: Path) -> None:
    """Write a case down, one file for each of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in case.items():
        (folder / re.sub(r"/", "@", name)).write_bytes(data)


def load(folder: Path) -> Case:
    """A case that was saved."""
    return {path.name.replace("@", "/"): path.read_bytes() for path in sorted(folder.iterdir())}
