# SPDX-License-Identifier: Apache-2.0

import base64
import json
from urllib.parse import parse_qs, urlsplit

from callsd_daemon.domain.mattermost import (
    MattermostCall,
    SiteSecrets,
    page_fragment,
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


def test_fragment_holds_the_token() -> None:
    """As the page decodes it: JSON in Base64, the token under its name."""
    assert json.loads(base64.b64decode(page_fragment(TOKEN))) == {"token": TOKEN}


def test_token_is_not_shown() -> None:
    """Who prints the secrets does not print the token."""
    assert TOKEN not in repr(SiteSecrets(token=TOKEN))
