"""`python -m meter_cli`: the `meters` command of this very Python."""

from meter_cli.main import main

main()
