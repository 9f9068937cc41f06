"""Removing what no champion, pointer or recent run needs: `sightline gc`."""
