"""Builds images: a directory or an OCI archive becomes packs, a chunk table and a bootstrap.

Importing the package loads nothing: import the module you need (``image_builder.build``).
"""
