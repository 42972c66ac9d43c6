"""Thin, honest Linux: one function per system call, and probes that say why a feature is missing."""
