"""Generators of the reference pages: everything below docs/reference/ is read from the typed core and the CLI."""
