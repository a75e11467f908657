"""The documentation harness: navigation of the site, and the machinery that runs every code block of its pages."""
