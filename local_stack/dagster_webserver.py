"""Dagster's webserver, closed to other pages: `python -m local_stack.dagster_webserver`, with its own options.

As it comes, dagster-webserver executes mutations sent by GET, as text/plain, from any page and to any host name. Here
are the names that it answers for and what is particular to its routes; the rest is webguard's.
"""

import sys
from typing import Any

from metering.errors import MetersError
from metering.settings import Settings, load_settings
from webguard import AllowedHosts, Guard, Headers, Refusal, Scope


def allowed_hosts(settings: Settings) -> AllowedHosts:
    """The loopback, METERS_UI_URL's host, and METERS_UI_HOSTS."""
    return AllowedHosts(settings.ui_url, settings.ui_host_names)


def queries_by_post(scope: Scope, headers: Headers) -> Refusal | None:
    """GraphQL in a URL is refused, queries too: the UI sends none. /graphql itself is a page, to try queries out on."""
    if _is_at(scope, "/graphql") and scope["method"] != "POST" and scope["query_string"]:
        return Refusal(405, "GraphQL in a URL is refused. Send POST with content type application/json", allow="POST")
    return None


def no_notebooks(scope: Scope, headers: Headers) -> Refusal | None:
    """The routes that show any notebook of the disk, as a page of the UI's own origin with what scripts are in it."""
    if _is_at(scope, "/notebook"):
        return Refusal(403, "Notebooks are not served here. Open the file with Jupyter")
    return None


def _is_at(scope: Scope, route: str) -> bool:
    """Does the request go there? Also below a --path-prefix."""
    return scope["path"].rstrip("/").endswith(route)


def guarded(app: Any, settings: Settings) -> Guard:
    """The webserver's application, behind the guard."""
    return Guard(app, allowed_hosts(settings), [queries_by_post, no_notebooks])


def main() -> None:
    """Run dagster-webserver's own command line, with the guard around the application that it serves."""
    try:
        settings = load_settings()
    except MetersError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    from dagster_webserver import cli as webserver

    cli: Any = webserver
    # There is no option for an ASGI wrapper. Should a later version not make its application by this name, the line
    # fails, and so does test_guarded_webserver.py.
    create = cli.create_app_from_workspace_process_context
    cli.create_app_from_workspace_process_context = lambda *args, **options: guarded(create(*args, **options), settings)
    webserver.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
