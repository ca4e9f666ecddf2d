"""The skeleton that all pages share: self-contained HTML, no script, nothing loaded from elsewhere.

A page's template extends `base.html.j2` and fills its blocks `title`, `badge`, `header` and `content`. Filters beside
Jinja's own: `count` (1,234), `percent` (0.1234 -> 12.3 %), `figure` (4 significant digits, a dash for None),
`when` (a time as `2013-07-01 02:00 UTC`), `size` (bytes for people), `short` (the first 12 digits of a digest), `words`
(a sentence, with what stands between backticks as code).
"""

from __future__ import annotations

import math
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from perennial.domain.times import parse_time

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

MISSING: Final = "\N{EN DASH}"
NARROW_SPACE: Final = "\N{NARROW NO-BREAK SPACE}"


def render(template_name: str, **context: Any) -> bytes:
    """A page of `templates/`, UTF-8. The same context gives the same bytes; every value is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a name that `context` lacks.
    """
    text: str = _environment().get_template(template_name).render(**context)
    return text.encode("utf-8")


def count(value: int) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}"


def percent(share: float | None) -> str:
    """A share in [0, 1] for people; tiny but not zero shows as `< 0.1 %`, nearly all as `> 99.9 %`."""
    if share is None or not math.isfinite(share):
        return MISSING
    if 0 < share < 0.001:
        return f"< 0.1{NARROW_SPACE}%"
    if 0.999 < share < 1:
        return f"> 99.9{NARROW_SPACE}%"
    return f"{100 * share:.1f}{NARROW_SPACE}%"


def figure(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    """A measured number with `digits` significant digits; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}g}"


def when(moment: datetime | str) -> str:
    """A time, or its ISO text, to the minute in UTC; seconds only where there are any."""
    utc = parse_time(moment.isoformat() if isinstance(moment, datetime) else moment)
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC" if utc.second else f"{utc:%Y-%m-%d %H:%M} UTC"


def size(size_bytes: int) -> str:
    """A number of bytes for people, in decimal units."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"


def short(digest: str) -> str:
    """The first 12 digits of a digest, enough to tell two apart by eye."""
    return digest[:12]


def words(sentence: str) -> Markup:
    """A sentence as HTML: escaped, what stands between backticks as code, no line break before a percent sign."""
    from markupsafe import Markup, escape

    parts = sentence.replace(" %", f"{NARROW_SPACE}%").split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner stands for itself
        return escape("`".join(parts))
    shown = [Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)]
    return Markup("").join(shown)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("perennial.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        count=count, percent=percent, figure=figure, when=when, size=size, short=short, words=words
    )
    return environment
