import pytest

from service.api.http.errors import NotAcceptable
from service.api.http.negotiation import negotiate

OFFERS = ("application/json", "image/png", "image/webp")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("IMAGE/WEBP", "image/webp"),
        ("image/png;q=0.5, image/webp;q=0.9", "image/webp"),
        ("image/*;q=0.5, application/json;q=0.4", "image/png"),
        ("image/png;q=0, image/*", "image/webp"),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", "image/webp"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_preferred_offer_is_chosen(accept: str | None, expected: str) -> None:
    assert negotiate(accept, OFFERS) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/jpeg", "*/*;q=0", "image/png;q=nonsense", ","])
def test_error_without_an_acceptable_offer(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="image/webp"):
        negotiate(accept, OFFERS)
