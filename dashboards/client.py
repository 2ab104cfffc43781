"""Metabase's REST API, as far as provisioning needs it.

Source of the paths and fields: Metabase's API reference and its source, 0.63 and 0.64. The API has no versions of its
own; what has changed is told by https://www.metabase.com/docs/latest/developers-guide/api-changelog.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests

from metering.errors import MetersError, ServiceAwayError

OLDEST_VERSION = 57
"""Metabase 0.57: since then queries are kept as they are today."""

NEWEST_VERSION = 64
"""The newest whose API this was compared with."""

CONNECT_SECONDS = 5
ANSWER_SECONDS = 60
"""Metabase tries a database connection before it answers, and gives that ten seconds by itself."""

MAX_REASON = 300

Json = dict[str, Any]


class Metabase:
    """A Metabase, over HTTP; log_in() or set_up() before anything that is not public.

    Args:
        url: where it is, without a slash at its end.
        secrets: never to be shown, not even if Metabase repeats them in what it refuses.
    """

    def __init__(self, url: str, secrets: Sequence[str] = ()) -> None:
        self.url = url
        self._secrets = secrets
        self._http = requests.Session()
        # The header alone says which session a request belongs to, and no cookie beside it.
        self._http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def wait_until_healthy(self, seconds: float, poll_seconds: float = 1.0) -> None:
        """Return once Metabase says that it is up; a new one takes a minute or two for its own database.

        Raises:
            ServiceAwayError: it has not said so within that time.
        """
        deadline = time.monotonic() + seconds
        while True:
            seen = self._health()
            if not seen:
                return
            if time.monotonic() > deadline:
                raise ServiceAwayError(
                    f"Metabase at {self.url} is not ready after {seconds:g} s: {seen}",
                    fix="Check METERS_METABASE_URL, and that Metabase runs; it logs what it waits for",
                )
            time.sleep(poll_seconds)

    def _health(self) -> str:
        """Why it is not up; empty when it is."""
        try:
            response = self._http.get(f"{self.url}/api/health", timeout=CONNECT_SECONDS, allow_redirects=False)
        except requests.Timeout:
            return f"no answer within {CONNECT_SECONDS} s"
        except requests.ConnectionError:
            return "nothing answers there"
        except requests.RequestException as error:
            return type(error).__name__
        self._stay(response)
        if response.status_code == 200 and _json(response).get("status") == "ok":
            return ""
        if response.status_code == 503:
            return "it is starting"
        return f"what answers there is no Metabase (HTTP {response.status_code} for /api/health)"

    def properties(self) -> Json:
        """Its public settings, among them `version`, `has-user-setup` and, until that is true, `setup-token`."""
        return self._ask("GET", "/api/session/properties", "tell its settings")

    def set_up(self, token: str, email: str, password: str, site_name: str) -> bool:
        """Create the first administrator and log in as them; False if somebody was faster."""
        body = {
            "token": token,
            "user": {"email": email, "password": password, "site_name": site_name},
            "prefs": {"site_name": site_name, "allow_tracking": False},
        }
        response = self._send("POST", "/api/setup", body)
        if response.status_code == 403:
            return False
        self._begin_session(self._answer(response, "create its first administrator"))
        return True

    def log_in(self, email: str, password: str) -> None:
        """Log in.

        Raises:
            MetersError: it does not know these credentials, or they are no administrator's.
        """
        response = self._send("POST", "/api/session", {"username": email, "password": password})
        if response.status_code in (400, 401):
            # It does not tell a wrong password from an unknown user, on purpose; and it may answer a wait.
            raise MetersError(
                f"Metabase at {self.url} is set up already and does not let {email} in ({self._reason(response)}): the "
                "password is wrong, or somebody has set it up with another administrator",
                fix="Set METERS_METABASE_ADMIN_EMAIL and METERS_METABASE_ADMIN_PASSWORD to those of an administrator",
            )
        self._begin_session(self._answer(response, "log in"))
        if not self.get("/api/user/current").get("is_superuser"):
            raise MetersError(
                f"{email} is no administrator of the Metabase at {self.url}",
                fix="Make them one there, or set METERS_METABASE_ADMIN_EMAIL to somebody who is",
            )

    def log_out(self) -> None:
        """End the session, so that none is left behind by each run."""
        if "X-Metabase-Session" in self._http.headers:
            with suppress(requests.RequestException):  # it ends by itself
                self._http.delete(f"{self.url}/api/session", timeout=CONNECT_SECONDS, allow_redirects=False)
        self._http.close()

    def get(self, path: str) -> Any:
        """What is at a path."""
        return self._ask("GET", path, f"show {path}")

    def post(self, path: str, body: Json, what: str) -> Json:
        """Create something; `what` names it for errors."""
        return self._ask("POST", path, f"create {what}", body)

    def put(self, path: str, body: Json, what: str) -> Json:
        """Change something; `what` names it for errors."""
        return self._ask("PUT", path, f"change {what}", body)

    def _begin_session(self, answer: Json) -> None:
        self._http.headers["X-Metabase-Session"] = str(answer["id"])

    def _ask(self, method: str, path: str, what: str, body: Json | None = None) -> Any:
        return self._answer(self._send(method, path, body), what)

    def _send(self, method: str, path: str, body: Json | None = None) -> requests.Response:
        try:
            response = self._http.request(
                method,
                self.url + path,
                json=body,
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise ServiceAwayError(
                f"Metabase at {self.url} does not answer ({type(error).__name__})", fix="Check that it runs"
            ) from None
        self._stay(response)
        return response

    def _stay(self, response: requests.Response) -> None:
        """Follow no redirect: the password goes to the address that was set, and nowhere else."""
        if response.is_redirect:
            raise MetersError(
                f"{self.url} sends on to {response.headers['Location']}",
                fix="Set METERS_METABASE_URL to the address where Metabase answers itself",
            )

    def _answer(self, response: requests.Response, what: str) -> Any:
        if not response.ok:
            raise MetersError(
                f"Metabase at {self.url} refused to {what}: {self._reason(response)} (HTTP {response.status_code})"
            )
        try:
            return response.json()
        except requests.JSONDecodeError:
            raise MetersError(
                f"What answers at {self.url} is no Metabase: no JSON", fix="Check METERS_METABASE_URL"
            ) from None

    def _reason(self, response: requests.Response) -> str:
        answer = _json(response)
        # `specific-errors` beside `errors` repeats what was sent.
        found = list(_texts(answer.get("errors"))) or list(_texts(answer.get("message")))
        reason = "; ".join(found) or response.text.partition("\n")[0] or "no reason given"
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return reason[:MAX_REASON]


def check_version(url: str, properties: Json) -> tuple[str, bool]:
    """The version's name, and whether it is newer than those that this was made for.

    Raises:
        MetersError: it is older than is supported, or it does not say what it is.
    """
    tag = (properties.get("version") or {}).get("tag") or "without a version"
    number = re.match(r"v[01]\.(\d+)", tag)  # v0 is the open edition, v1 the commercial one
    if not number or int(number[1]) < OLDEST_VERSION:
        raise MetersError(
            f"Metabase at {url} is {tag}, which is not supported", fix=f"Use Metabase 0.{OLDEST_VERSION} or newer"
        )
    return tag, int(number[1]) > NEWEST_VERSION


def _json(response: requests.Response) -> Json:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """The messages in an answer's `errors`, which may be nested by field."""
    if isinstance(value, str):
        yield f"{name}: {value}" if name and name != "_error" else value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, str(key))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)
