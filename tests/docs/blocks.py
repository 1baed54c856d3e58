"""What the documentation shows: blocks of code, commands in them and in running text, and links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("README.md", "docs/**/*.md", "deploy/*.md", "examples/**/*.md")
    for page in REPOSITORY.glob(pattern)
    if "docs/reference" not in str(page)
)
PROGRAMS = ("sedray", "make", "python", "pytest")
_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.S | re.M)
_INDENTED = re.compile(r"(?<=\n\n)((?:    [^\n]*\n|\n)+)")
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_SETTING = re.compile(r"[A-Z_]+=\S+")


@dataclass(frozen=True, slots=True)
class Shown:
    """Something on a page."""

    page: str
    text: str
    is_whole: bool = True
    """In a block, to be run as it stands; running text may only name a command."""

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language, if one is named, and text of each fenced or indented block."""
    text = page.read_text("utf-8")
    for found in _FENCED.finditer(text):
        indent = found.group(1)
        yield found.group(2), "".join(line.removeprefix(indent) for line in found.group(3).splitlines(True))
    for found in _INDENTED.finditer(_FENCED.sub("", text)):
        yield "", "".join(line.removeprefix("    ") for line in found.group(1).splitlines(True))


def inline(page: Path) -> Iterator[str]:
    """Code in running text, in one line."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    outside = _INDENTED.sub("\n", text)
    yield from (" ".join(found.group(1).split()) for found in _INLINE.finditer(outside))


def commands() -> list[Shown]:
    """Each command line for one of our programs, by its words; alternatives (`ls | show ID`) each by itself."""
    found: list[Shown] = []
    for page in PAGES:
        name = str(page.relative_to(REPOSITORY))
        lines = [line for language, block in blocks(page) for line in _lines(block) if language in ("", "sh", "bash")]
        found += [Shown(name, command) for line in lines for command in _commands(line)]
        named = [code for code in inline(page) if code.startswith(("sedray ", "make ", "python "))]
        found += [Shown(name, command, False) for line in named for command in _commands(line)]
    return found


def _lines(block: str) -> Iterator[str]:
    yield from (line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())


def _commands(line: str) -> Iterator[str]:
    """Without a shell's comment, settings before it, and the path of its program."""
    words = line.split()
    while words and _SETTING.fullmatch(words[0]):
        words.pop(0)
    program = words[0].removeprefix(".venv/bin/") if words else ""
    if program in PROGRAMS and len(words) > 1:
        rest = line[line.index(words[0]) + len(words[0]) :]
        yield from (f"{program} {one}" for one in _alternatives(_without_comment(rest)))


def _without_comment(text: str) -> str:
    return re.split(r"\s#\s|\s#$|\s>\s|\s&&\s", text)[0].strip()


def _alternatives(text: str) -> list[str]:
    """`study show ID | pause ID` is `study show ID` and `study pause ID`; what a pipe feeds is not ours."""
    text = re.split(r"\s\|\s(?:jq|xargs|head|grep)\s", text)[0]
    first, *others = [piece.strip() for piece in re.split(r"(?<!\S)\|(?!\S)", text)]
    group = first.split()[0] if len(first.split()) > 1 and first.split()[1].islower() else ""
    return [first, *(f"{group}|{other}" if group else other for other in others)]


def words_of(command: str) -> list[str]:
    """As a shell would; brackets around what may be left out are taken away."""
    plain = re.sub(r"(?<!\S)\[([^\]\s][^\]]*)\]", r"\1", re.sub(r"<[^<>]+>", "VALUE", command))
    return shlex.split(plain)


def runnable(page: Path, **ids: str) -> list[list[str]]:
    """The words behind `sedray` of each whole command in a page's blocks, with ids put in place of their names."""
    shown = [one for one in commands() if one.is_whole and one.text.startswith("sedray ")]
    own = [words_of(one.text)[1:] for one in shown if REPOSITORY / one.page == page]
    return [[ids.get(word, word) for word in words] for words in own]
