"""Sightline: from unlabelled images and a few labels to a trusted classifier and detector."""

__version__ = "0.1.0"
