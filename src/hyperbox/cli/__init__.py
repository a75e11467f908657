"""The command line: Typer, one module a command group; heavy imports happen inside commands."""
