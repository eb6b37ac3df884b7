"""The pages of the repository: their code blocks, links, anchors, and what they quote or repeat from elsewhere.

A code block is fenced and names its language; an indented one is refused, since nothing could tell what it is. Three
comments in a page bind what follows them to something else; `--update` fences, and rewrites the first two:

    <!-- quote FILE NAME -->     the next block is what stands between `[NAME]` and `[end]` in FILE
    <!-- flags -->               the next table has every flag of `hostkvd --help`
    <!-- output -->              the next block has lines that the shell block before it prints, in their order
"""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)(```+)\s*(\S*)\s*$")
QUOTE = re.compile(r"^\s*<!-- (?:quote (\S+) (\S+)|output) -->\s*$")


class Page:
    """One Markdown file; `problems` gathers what is wrong with it."""

    def __init__(self, path):
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.problems = []
        self.blocks = []
        self._read()

    def problem(self, line, sentence):
        self.problems.append(f"{self.name}:{line}: {sentence}")

    def _read(self):
        """Splits the page in blocks and prose; `self.prose` has an empty line for each line of a block."""
        self.prose = []
        self.indented = []
        block, fence, quote = None, None, None
        was_text = True
        for number, line in enumerate(self.lines, 1):
            mark = FENCE.match(line)
            if block is None and mark:
                block = {"line": number, "indent": len(mark[1]), "language": mark[3], "lines": [], "quote": quote}
                fence, quote = mark[2], None
                if not mark[3]:
                    self.problem(number, "a code block without a language; `text` is for what is no code")
                self.prose.append("")
            elif block is not None and mark and mark[2] == fence and not mark[3]:
                block["text"] = "\n".join(block.pop("lines")) + "\n"
                block["end"] = number
                self.blocks.append(block)
                block = None
                self.prose.append("")
            elif block is not None:
                block["lines"].append(line[block["indent"] :] if line.strip() else "")
                self.prose.append("")
            else:
                found = QUOTE.match(line)
                quote = (found[1] and found.groups() or "output") if found else (quote if not line.strip() else None)
                if was_text and re.match(r"^ {4}\S", line):
                    self.problem(number, "an indented code block; scripts/test-docs.sh --update fences it as sh")
                    self.indented.append(number - 1)
                self.prose.append(line)
            # In a list a continued paragraph is indented too.
            was_text = not line.strip() and not self._is_in_list()
        if block is not None:
            self.problem(block["line"], "a code block that does not end")

    def _is_in_list(self):
        for line in reversed(self.prose):
            if line.strip() and not line.startswith(" "):
                return bool(re.match(r"([-*]|\d+\.) ", line))
        return False

    def anchors(self):
        """What a link may name, as GitHub makes it from the headings."""
        seen = {}
        names = set()
        for line in self.prose:
            heading = re.match(r"^#{1,6} +(.*?)\s*#*$", line)
            if not heading:
                continue
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.replace("`", "").lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            names.add(f"{slug}-{count}" if count else slug)
        return names

    def links(self):
        """(line, target) of every link and picture."""
        for number, line in enumerate(self.prose, 1):
            without_code = re.sub(r"`[^`]*`", "", line)
            for target in re.findall(r"\]\(([^)\s]+)\)", without_code):
                yield number, target
            for target in re.findall(r"(?:src|srcset)=\"([^\"]+)\"", line):
                yield number, target


def fence(pages):
    """Fences indented blocks, as commands, which most are."""
    for page in pages:
        for begin in reversed(page.indented):
            end = begin
            while end < len(page.lines) and (page.lines[end].startswith("    ") or not page.lines[end].strip()):
                end += 1
            while not page.lines[end - 1].strip():
                end -= 1
            page.lines[begin:end] = ["```sh", *(line[4:] for line in page.lines[begin:end]), "```"]
        if page.indented:
            page.path.write_text("\n".join(page.lines) + "\n", encoding="utf-8")


def all_pages():
    """Every page that belongs to the repository, tracked or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()
    return [Page(ROOT / name) for name in sorted(set(listed.split("\0"))) if name and (ROOT / name).exists()]


def check_links(pages):
    by_path = {page.path: page for page in pages}
    for page in pages:
        for line, target in page.links():
            if re.match(r"^(https?|mailto):", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.path.parent / path).resolve() if path else page.path
            if not there.exists() or ROOT not in [there, *there.parents]:
                page.problem(line, f"the link {target} leads nowhere")
            elif anchor and (there not in by_path or anchor not in by_path[there].anchors()):
                page.problem(line, f"{path or page.name} has no heading for #{anchor}")


def passage(file, name):
    """The lines between `[name]` and `[end]` of a source file, without their common indent."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    begin = [at for at, line in enumerate(lines) if re.fullmatch(rf"\s*(//|/\*|#) \[{re.escape(name)}\]( \*/)?", line)]
    if len(begin) != 1:
        raise ValueError(f"{file} has {len(begin)} passages [{name}], not one")
    end = next((at for at in range(begin[0], len(lines)) if re.fullmatch(r"\s*(//|/\*|#) \[end\]( \*/)?", lines[at])), None)
    if end is None:
        raise ValueError(f"the passage [{name}] of {file} has no [end]")
    taken = lines[begin[0] + 1 : end]
    indent = min((len(line) - len(line.lstrip()) for line in taken if line.strip()), default=0)
    return "".join(line[indent:] + "\n" for line in taken)


def check_quotes(pages, update):
    """C and C++ stand in a page only as lines of a program that a test compiles and runs."""
    for page in pages:
        for block in reversed(page.blocks):
            if block["quote"] in (None, "output"):
                if block["language"] in ("c", "cpp"):
                    page.problem(block["line"], "C or C++ that is no quote: <!-- quote FILE NAME --> names the program it stands in")
                continue
            file, name = block["quote"]
            if not file.startswith("examples/"):
                page.problem(block["line"], f"{file} is not in examples/, so nothing compiles it")
                continue
            try:
                text = passage(file, name)
            except (OSError, ValueError) as error:
                page.problem(block["line"], str(error))
                continue
            if text != block["text"]:
                if update:
                    page.lines[block["line"] : block["end"] - 1] = text.splitlines()
                    page.path.write_text("\n".join(page.lines) + "\n", encoding="utf-8")
                else:
                    page.problem(block["line"], f"differs from [{name}] of {file}; scripts/test-docs.sh --update writes it anew")
