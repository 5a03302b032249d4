# SPDX-License-Identifier: Apache-2.0

import base64
import json
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from callsd_daemon.domain.mattermost import (
    MattermostCall,
    SiteSecrets,
    is_identifier,
    is_site,
    is_token,
    page_fragment,
    page_origins,
    page_url,
)


CALL = MattermostCall(
    site_url="https://a.example:8443", call_id="c" * 26, post_id="p" * 26, job_id="r" * 26
)
TOKEN = "qj75unbsef83ik9p7ueypb6iyw"


def test_page() -> None:
    """The plugin's own page is opened, and told which call it shows and for which job."""
    parts = urlsplit(page_url(CALL))
    assert (parts.scheme, parts.netloc) == ("https", "a.example:8443")
    assert parts.path == "/plugins/com.mattermost.calls/standalone/recording.html"
    assert parse_qs(parts.query) == {"call_id": ["c" * 26], "job_id": ["r" * 26]}
    assert parts.fragment == ""


@pytest.mark.parametrize(
    ("site", "origins"),
    [
        ("http://mm.example.com", ("https://mm.example.com",)),
        ("http://mm.example.com:8065", ("https://mm.example.com",)),
        ("http://[::1]:80", ("https://[::1]",)),
        ("http://[::1]", ("https://[::1]",)),
        ("https://mm.example.com", ()),
    ],
)
def test_a_page_that_goes_on_to_tls_keeps_its_headers(site: str, origins: tuple[str, ...]) -> None:
    """The plugin's header goes along from http to https of the same host, and never back."""
    assert page_origins(replace(CALL, site_url=site)) == origins


def test_fragment_holds_the_token() -> None:
    """As the page decodes it: JSON in Base64, the token under its name."""
    assert json.loads(base64.b64decode(page_fragment(TOKEN))) == {"token": TOKEN}


def test_token_is_not_shown() -> None:
    """Who prints the secrets does not print the token."""
    assert TOKEN not in repr(SiteSecrets(token=TOKEN))


class TestChecks:
    """What may become a part of an address or a header."""

    @pytest.mark.parametrize("url", ["http://mm", "https://mm.example.com:8065", "http://[::1]:80"])
    def test_sites(self, url: str) -> None:
        """A scheme, a host, perhaps a port."""
        assert is_site(url)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "mm.example.com",
            "ftp://mm",
            "https://",
            "https://mm/",
            "https://mm/chat",
            "https://mm?a=b",
            "https://mm?",
            "https://mm#a",
            "https://user:key@mm",
            "https://mm:99999",
            "https://[mm",
            "https://m m",
            "https://mm\r\n",
            f"https://{'m' * 1024}",
        ],
    )
    def test_no_sites(self, url: str) -> None:
        """Anything more, or less, is none."""
        assert not is_site(url)

    def test_identifiers(self) -> None:
        """Exactly 26 letters and digits."""
        assert is_identifier("a1" * 13)
        for text in ("", "a" * 25, "a" * 27, "A" * 26, "../" + "a" * 23):
            assert not is_identifier(text)

    def test_tokens(self) -> None:
        """Printable, and not longer than a header may be."""
        assert is_token("x" * 1024)
        for text in ("", "x" * 1025, "a b", "a\n", "é"):
            assert not is_token(text)
