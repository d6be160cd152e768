"""The one way out for text: nothing from outside is markup, a control character, or a crash."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hermes_lab.cli import READER_LEFT, console, main
from hermes_lab.cli.sink import ReaderLeft, Sink
from hermes_lab.errors import LabError
from hermes_lab.evaluation.report import Section
from hermes_lab.evaluation.scores import Comparison, Score, WorldsResult

CLI = Path(console.__file__).parent
HOSTILE = r"[bold]x[/] [/y] :smile: C:\v\[/z]\a [fe80::1] [@click=f]b"
CONTROLS = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\x7fe\x00f"
LOST = "caf\udce9"  # a byte of a file name that is not UTF-8


# --- markup and controls ------------------------------------------------------------------------
def _say_table(text: str) -> None:
    table = Table(text, "other", title=text, caption=text)
    table.add_row(text, Text(text))
    table.add_section()
    console.say(table)


@pytest.mark.parametrize(
    "way",
    [
        console.say,
        console.note,
        console.fail,
        lambda text: console.say(Text.assemble(("x", "bold"), text)),
        lambda text: console.out.print(Panel(Text(text), title=Text(text), width=200)),
        _say_table,
    ],
)
def test_text_from_outside_is_only_ever_text(
    way: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (console.out, console.errors):
        monkeypatch.setattr(stream, "_width", 500)
    way(HOSTILE)
    said = "".join(capsys.readouterr())
    assert HOSTILE in said
    way(CONTROLS + LOST + "\tend")
    said = "".join(capsys.readouterr())
    assert "␛[2J" in said
    assert "�31m" in said
    assert "caf�" in said
    assert "end" in said
    left = {c for c in said if ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000}
    assert left <= {"\n", "\t"}


def test_a_terminal_still_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    console.Outlet(Sink("stdout")).print(Text("\x1b[2J", "bold"))
    assert terminal.getvalue() == "\x1b[1m␛[2J\x1b[0m\n"


def test_bars_describe_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.errors, "_width", 500)
    bars = console.progress()
    bars.add_task(HOSTILE, total=2)
    with console.errors.capture() as captured:
        console.errors.print(bars.get_renderable())
    assert HOSTILE in captured.get()


def test_tables_of_measurements_take_names_as_they_are() -> None:
    assert HOSTILE in Section(HOSTILE, ("a", "b"), ((HOSTILE, 1.0),), note=HOSTILE).table()
    score = Score(1, 1.0, 1.0, 1.0, 0.5)
    result = WorldsResult(
        "m[/x]", "p[bold]", 1, 8, 1, (1, 2), 0.0, {"now": score}, {"now_[/y]": score}
    )
    for text in (result.table(), Comparison([result, result]).table()):
        assert "m[/x], p[bold]" in text
        assert "now_[/y]" in text


# --- JSON ---------------------------------------------------------------------------------------
def test_json_is_strict_and_carries_everything(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": "λ 第一\x9b\x1b\x7f" + LOST, "b": [float("nan"), float("inf"), (1.5,)]}
    console.print_json(value)
    said = capsys.readouterr().out
    assert not {c for c in said if 127 <= ord(c) < 160 or ord(c) == 27}
    assert json.loads(said) == {"a": value["a"], "b": [None, None, [1.5]]}


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_json_loses_nothing_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    console.print_json({"a": "é λ 第"})
    assert json.loads(file.getvalue().decode(encoding)) == {"a": "é λ 第"}


# --- streams that fail -----------------------------------------------------------------------------
class _Failing(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.tries = error, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise self.error


def test_what_the_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, "cp1252"))
    console.begin()
    console.say("é ✓ 第一")
    assert file.getvalue().decode("cp1252").split() == ["é", "?", "??"]


def test_a_stream_that_cannot_be_told_to_replace_is_sent_what_it_can_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Narrow(io.StringIO):
        encoding = "ascii"

        def write(self, text: str) -> int:
            text.encode("ascii")
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Narrow())
    console.begin()
    console.say("✓ right")
    assert sys.stdout.getvalue() == "? right\n"


def test_a_reader_that_left_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = _Failing(BrokenPipeError(32, "Broken pipe"))
    monkeypatch.setattr(sys, "stdout", gone)
    assert main(["policies"]) == READER_LEFT
    assert gone.tries == 1
    assert capsys.readouterr().err == ""


def test_a_full_disk_behind_standard_output_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", _Failing(OSError(28, "No space left on device")))
    for command in (["policies"], ["policies", "--json"], ["--version"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said == "Error: Standard output cannot be written: No space left on device.\n"


def test_a_command_that_writes_files_goes_on_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = _Failing(BrokenPipeError())
    monkeypatch.setattr(sys, "stdout", gone)
    console.begin()
    console.finish_unread()
    console.say("one")
    console.say("two")
    assert gone.tries == 1
    console.begin()  # another command in the same process is heard again
    with pytest.raises(ReaderLeft):
        console.say("three")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console.begin()
    console.say("four")  # and nothing of what was lost comes out of it
    assert sys.stdout.getvalue() == "four\n"


def test_standard_error_may_fail_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _Failing(OSError(28, "No space left on device")))
    assert main(["show", "nothing here"]) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["show", "nothing here"]) == 2


# --- what the system refuses ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(13, "Permission denied", "[/x]"),
            "[/x] cannot be used: Permission denied.",
        ),
        (OSError(28, "No space left on device"), "cannot be used: No space left on device."),
        (LabError("Once [bold]more[/]."), "Once [bold]more[/]."),
    ],
)
def test_whatever_the_system_refuses_is_one_sentence(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hermes_lab.policies as registry

    def refuse() -> None:
        raise error

    monkeypatch.setattr(registry, "names", refuse)
    assert main(["policies"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Error: ")
    assert printed.endswith(f"{said}\n")
    assert len(printed.splitlines()) == 1
    monkeypatch.setenv("HERMES_LAB_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["policies"])


# --- a lint of the command line itself -----------------------------------------------------------
BARE = {
    "print",
    "typer.echo",
    "typer.secho",
    "sys.stdout.write",
    "sys.stderr.write",
    "Text.from_markup",
}
MARKUP = {  # rich reads these as markup whatever the console was told: a plain text must be wrapped in Text
    "Panel": ("title", "subtitle"), "status": (0,), "Status": (0,), "Spinner": (1, "text"),
    "TextColumn": (), "SpinnerColumn": ("finished_text",),
}  # fmt: skip
ALLOWED_COLUMNS = ("{task.description}", "{task.fields[rate]}")


def _calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def _is_text(node: ast.expr) -> bool:
    fixed = isinstance(node, ast.Constant) and "[" not in str(node.value)
    return fixed or (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("Text"))


def faults(path: Path) -> list[str]:
    """Calls that go round the one way out, or hand rich a text from outside as markup."""
    found: list[str] = []
    for name, call in _calls(path):
        where = f"{path.name}:{call.lineno} {ast.unparse(call)[:90]}"
        keywords = {k.arg: k.value for k in call.keywords}
        markup = keywords.get("markup")
        if (
            name in BARE
            or name.endswith("Console")
            or name == "Progress.get_default_columns"
            or (isinstance(markup, ast.Constant) and markup.value is True)
        ):
            found.append(where)
        last = name.rpartition(".")[2]
        for place in MARKUP.get(last, ()):
            given = (
                keywords.get(place) if isinstance(place, str)
                else call.args[place] if place < len(call.args) else None
            )  # fmt: skip
            if given is not None and not _is_text(given):
                found.append(where)
        if last == "TextColumn":
            text = call.args[0].value if isinstance(call.args[0], ast.Constant) else "[?]"
            plain = isinstance(markup, ast.Constant) and markup.value is False
            if "[" in str(text) and not plain and text not in ALLOWED_COLUMNS[1:]:
                found.append(where)
            if "{task.description}" in str(text) and not plain:
                found.append(where)
        if last == "Progress" and not call.args:
            found.append(where)  # its own columns read descriptions as markup
    return found


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda p: p.name)
def test_every_command_uses_the_one_way_out(path: Path) -> None:
    assert faults(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "print(name)",
        "typer.echo(name)",
        "sys.stdout.write(name)",
        "Console().print(name)",
        'out.print(f"[bold]{name}", markup=True)',
        'errors.status(f"loading {name}")',
        "Panel(text, title=name)",
        'TextColumn("{task.description}")',
        'TextColumn("[bold]{task.completed}")',
        "Progress(console=errors)",
        "Text.from_markup(name)",
    ],
)
def test_the_lint_finds_what_it_is_for(line: str, tmp_path: Path) -> None:
    file = tmp_path / "command.py"
    file.write_text(line)
    assert len(faults(file)) == 1


def test_measurements_write_to_consoles_without_markup() -> None:
    for path in sorted((CLI.parent / "evaluation").glob("*.py")):
        for name, call in _calls(path):
            if name == "Console":
                options = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert options.get("markup") == "False", path
                assert options.get("emoji") == "False", path
