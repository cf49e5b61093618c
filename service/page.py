"""The page at /: one file of HTML, style and script that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files


def page() -> str:
    """The page, as the package carries it."""
    return files("glc.service").joinpath("page.html").read_text("utf-8")


def _policy(html: str) -> str:
    """A content security policy that names the page's own style and script by their hashes, and allows no other."""
    hashes = {}
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


PAGE_HEADERS = {
    "Content-Security-Policy": _policy(page()),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Headers that the page is served with."""
