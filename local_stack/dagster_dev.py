"""`dagster dev` with the guarded webserver: `python -m local_stack.dagster_dev`, with `dagster dev`'s own options."""

from typing import Any

from dagster._cli import dev

WEBSERVER, DAEMON = "dagster_webserver", "dagster._daemon"
GUARDED = "local_stack.dagster_webserver"


def main() -> None:
    """Run `dagster dev`; where it starts `python -m dagster_webserver`, start our own module with the same options."""
    module: Any = dev
    start = module.open_ipc_subprocess

    def start_guarded(command: list[str], **options: Any) -> Any:
        _, flag, name, *arguments = command
        if flag != "-m" or name not in (WEBSERVER, DAEMON):  # a later version: better none than an open one
            raise RuntimeError(f"`dagster dev` starts {command[:3]}, which local_stack/dagster_dev.py does not know")
        return start([*command[:2], GUARDED if name == WEBSERVER else name, *arguments], **options)

    module.open_ipc_subprocess = start_guarded
    dev.dev_command(auto_envvar_prefix="DAGSTER_CLI_DEV", prog_name="dagster dev")


if __name__ == "__main__":
    main()
