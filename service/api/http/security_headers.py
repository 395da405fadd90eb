"""Security headers of every response."""

from __future__ import annotations

SECURITY_HEADERS = {
    # A response that is no page loads nothing, and no other page may embed it. Pages have policies of their own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers that a response has unless its route sets them itself."""
