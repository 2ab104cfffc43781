"""Dagster's webserver, closed to other pages: `python -m local_stack.dagster_webserver`, with its own options.

As it comes, dagster-webserver executes mutations sent by GET, as text/plain, from any page and to any host name. Here
are the names that it answers for and what is particular to its routes; the rest is webguard's.
"""

import sys
from collections.abc import Callable
from typing import Any

from metering.errors import MetersError
from metering.settings import Settings, load_settings
from webguard import AllowedHosts, Guard, Headers, Refusal, Scope

NOTEBOOKS = ("/notebook", "/dagit/notebook")
"""They show any notebook on the disk as a page of the UI's own origin, with what scripts are in it."""


def allowed_hosts(settings: Settings) -> AllowedHosts:
    """The loopback, METERS_UI_URL's host, and METERS_UI_HOSTS."""
    return AllowedHosts(settings.ui_url, settings.ui_host_names)


def queries_by_post(scope: Scope, headers: Headers) -> Refusal | None:
    """GraphQL in a URL is refused, queries too: the UI sends none. /graphql itself is a page, to try queries out on."""
    if _route(scope) == "/graphql" and scope["method"] != "POST" and scope["query_string"]:
        return Refusal(405, "GraphQL in a URL is refused. Send POST with content type application/json", allow="POST")
    return None


def no_notebooks(scope: Scope, headers: Headers) -> Refusal | None:
    """The routes for notebooks, of which we have none."""
    if _route(scope) in NOTEBOOKS:
        return Refusal(403, "Notebooks are not served here. Open the file with Jupyter")
    return None


def _route(scope: Scope) -> str:
    return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")


def guarded(app: Any, settings: Settings) -> Guard:
    """The webserver's application, behind the guard."""
    return Guard(app, allowed_hosts(settings), [queries_by_post, no_notebooks])


def main() -> None:
    """Run dagster-webserver's own command line, with the guard around the application that it serves."""
    from dagster_webserver import cli

    try:
        settings = load_settings()
    except MetersError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    # There is no option for an ASGI wrapper. Should a later version not make its application by this name, the line
    # fails, and test_webguard.py does.
    create: Callable[..., Any] = cli.create_app_from_workspace_process_context
    cli.create_app_from_workspace_process_context = lambda *args, **options: guarded(create(*args, **options), settings)
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
