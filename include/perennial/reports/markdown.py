"""Text from outside inside Markdown: it stays text, whatever it holds, in CommonMark and in MLflow's own reader."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import jinja2

_MARKS: Final = re.compile(r"([\\`*_\[\]|~])")
_ENTITIES: Final = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
_USER_INFO: Final = re.compile(r"(?<=://)[^/\s@]*@")


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


def escaped(value: object) -> Markdown:
    """The value as one line of text that means nothing in Markdown or HTML. User names in addresses are hidden.

    A mark at the start of a line (`#`, `-`, `1.`) is not escaped: templates put words of their own before a value.
    """
    if isinstance(value, Markdown):
        return value
    text = _USER_INFO.sub("(hidden)@", " ".join(str(value).split()))
    for character, entity in _ENTITIES:
        text = text.replace(character, entity)
    return Markdown(_MARKS.sub(r"\\\1", text))


def code(value: object) -> Markdown:
    """The value as a code span; as escaped text if it holds what would end the span, or the table's cell."""
    text = _USER_INFO.sub("(hidden)@", " ".join(str(value).split()))
    return escaped(text) if not text or set(text) & set("`|<>&") else Markdown(f"`{text}`")


def code_block(value: object) -> Markdown:
    """The value as a line of a code block, to be copied: nothing in it is changed but user names in addresses."""
    text = _USER_INFO.sub("(hidden)@", str(value).replace("\r", " ").replace("\n", " "))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markdown(f"{fence}sh\n{text}\n{fence}")


def link(text: str, url: str) -> Markdown:
    """A link if the address is one of the web without a user name in it; else the address as code."""
    if not re.fullmatch(r"https?://[^\s<>()@]+", url):
        return code(url) if url else escaped(text)
    return Markdown(f"[{escaped(text)}](<{url}>)")


def render_markdown(template_name: str, **context: Any) -> str:
    """A document of `templates/`; every value is escaped unless a filter made it Markdown.

    Raises:
        jinja2.UndefinedError: the template uses a name that `context` lacks.
    """
    text: str = _environment().get_template(template_name).render(**context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    from perennial.reports.page import count, size, when

    environment = jinja2.Environment(  # noqa: S701 - `finalize` escapes for Markdown, which HTML's rules do not fit
        loader=jinja2.PackageLoader("perennial.reports", "templates"),
        finalize=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(code=code, code_block=code_block, count=count, size=size, when=when, markdown=Markdown)
    environment.filters["link"] = lambda url, text: link(text, url)
    return environment
