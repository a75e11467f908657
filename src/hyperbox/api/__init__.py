"""The typed core: what a user sees. Declarations without I/O; every reference page is generated from here."""
