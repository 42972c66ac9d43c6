"""Thin, honest Linux: one function a system call, and probes that say why a feature is missing."""
