"""Containers on one machine: bundle, network, monitor, and the routes to *ready*."""
