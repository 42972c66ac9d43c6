"""Immutable bytes named by their digest, the references that name them, and every stored format.

Formats are pure (bytes to values and back, no I/O); backends are ``directory`` and ``s3``; retry,
verification and limits are wrappers with the same protocols, stacked in ``stack`` alone.
"""
