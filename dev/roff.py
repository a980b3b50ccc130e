"""Markdown to roff, as far as our manual pages go: headings, paragraphs, lists, code, and tables as definitions.

Runs in: `make manual`.

The source is read by markdown-it, so that it is the Markdown everybody knows.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_MARKDOWN = MarkdownIt("commonmark").enable("table")
#: Columns of the roff source, which a person may read as well.
_WIDTH = 78
_SPECIAL = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", "…": "..."}
#: Fonts of inline marks.
_FONTS = {"strong": "B", "em": "I", "code_inline": "B"}
#: A paragraph that stands for generated text: `{options}`, `{exit-status wq-send}`.
_PLACEHOLDER = re.compile(r"\{([a-z-]+)(?: ([^}]*))?\}")

#: Makes the lines that a placeholder stands for, from its word and its argument.
Fill = Callable[[str, str], Iterable[str]]


def escape(text: str) -> str:
    """Text that roff takes for text."""
    return "".join(_SPECIAL.get(c, c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text)


def bold(text: str) -> str:
    """Text to be typed as it is."""
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    """Text that stands for something else."""
    return f"\\fI{escape(text)}\\fR"


def sentence(text: str) -> str:
    """A phrase with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def flow(text: str) -> list[str]:
    """A paragraph, in lines of roff; a sentence begins on a line of its own."""
    lines: list[str] = []
    for part in text.split("\n.br\n"):
        sentences = re.split(r"(?<![.][.])(?<=[.!?])\s+(?=\S)", part)
        wrapped = [line for one in sentences for line in _wrap(one)]
        lines += [".br"] * bool(lines) + wrapped
    return lines


def _wrap(sentence: str) -> list[str]:
    lines = textwrap.wrap(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False)
    # What begins with a control character would be a request.
    return [f"\\&{line}" if line.startswith((".", "\\(aq")) else line for line in lines]


def inline(markdown: str) -> str:
    """A line of Markdown as roff."""
    return _inline(SyntaxTreeNode(_MARKDOWN.parseInline(markdown)))


def definition(term: str, meaning: Iterable[str]) -> list[str]:
    """A term, already roff, and the lines that tell what it means."""
    return [".TP", term, *meaning]


def page(markdown: str, fill: Fill, volume: str) -> str:
    """A manual page.

    Args:
        markdown: its first line is `# name(section): what it is`.
        fill: what placeholders stand for.
        volume: the words on top.
    """
    head, _, rest = markdown.partition("\n")
    title = re.fullmatch(r"# ([\w.-]+)\((\d)\): (.+)", head)
    if title is None:
        raise ValueError(f"expected '# name(section): what it is', found {head!r}")
    name, section, what = title.groups()
    lines = [
        '.\\" Made by `make manual` from the code and dev/man; do not edit.',
        f'.TH {escape(name.upper())} {section} "" workqueued "{volume}"',
        ".ad l",
        ".nh",
        ".SH NAME",
        f"{escape(name)} \\- {inline(what)}",
        *_blocks(SyntaxTreeNode(_MARKDOWN.parse(rest)).children, fill),
    ]
    return "\n".join(lines) + "\n"


def _blocks(nodes: Iterable[SyntaxTreeNode], fill: Fill) -> Iterator[str]:
    fresh = True  # nothing stands between a heading and its first paragraph
    for node in nodes:
        yield from _block(node, fill, fresh=fresh)
        fresh = node.type == "heading"


def _block(node: SyntaxTreeNode, fill: Fill, *, fresh: bool) -> Iterator[str]:
    if node.type == "heading":
        yield (".SH " if node.tag == "h2" else ".SS ") + _heading(node)
    elif node.type == "paragraph":
        placeholder = _PLACEHOLDER.fullmatch(node.children[0].content)
        if placeholder:
            yield from fill(placeholder[1], placeholder[2] or "")
        else:
            yield from [".PP"] * (not fresh) + flow(_inline(node))
    elif node.type in ("fence", "code_block"):
        code = map(_verbatim, node.content.splitlines())
        # groff ends an example with its own idea of hyphens.
        yield from [".PP"] * (not fresh) + [".RS 4", ".EX", *code, ".EE", ".nh", ".RE"]
    elif node.type == "bullet_list":
        for item in node.children:
            first, *others = [flow(_inline(child)) for child in item.children]
            yield from [".IP \\(bu 3", *first]
            for other in others:
                yield from [".IP", *other]
    elif node.type == "table":
        yield from _definitions(node)
    else:
        raise ValueError(f"{node.type} is not among what a page may have")


def _definitions(table: SyntaxTreeNode) -> Iterator[str]:
    for term, meaning in rows(table):
        yield from definition(term if "\\f" in term else f"\\fB{term}\\fR", flow(sentence(meaning)))


def rows(table: SyntaxTreeNode) -> list[list[str]]:
    """The cells of a table's body, as roff."""
    body = next((child for child in table.children if child.type == "tbody"), None)
    return [[_inline(cell) for cell in row.children] for row in body.children] if body else []


def _heading(node: SyntaxTreeNode) -> str:
    text = _inline(node)
    return text.upper() if node.tag == "h2" else text


def _verbatim(line: str) -> str:
    return ("\\&" if line.startswith((".", "'")) else "") + escape(line)


def _inline(node: SyntaxTreeNode, font: str = "R") -> str:
    if node.type == "text":
        return escape(node.content)
    if node.type == "softbreak":
        return " "
    if node.type == "hardbreak":
        return "\n.br\n"
    if node.type == "code_inline":
        return f"\\fB{escape(node.content)}\\f{font}"
    inner = _FONTS.get(node.type, font)
    text = "".join(_inline(child, inner) for child in node.children)
    if node.type in _FONTS:
        return f"\\f{inner}{text}\\f{font}"
    if node.type == "link" and ":" in cast("str", node.attrs["href"]):
        return f"{text} ({escape(cast('str', node.attrs['href']))})"
    return text


def tables(markdown: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """All tables of a document: the plain texts of the header, and the cells of the body as roff."""
    for node in SyntaxTreeNode(_MARKDOWN.parse(markdown)).walk():
        if node.type == "table":
            header = [cell.children[0].content.strip("`") for cell in node.children[0].children[0].children]
            yield header, rows(node)
