"""Sightline's trainings as jobs of a Kubernetes cluster: rendered, submitted, followed, cancelled.

Never reaches torch: what trains lives in the workers' image, what launches in a small one.
"""
