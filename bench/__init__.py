"""Scenarios that measure Hotstart against what people use today, on this machine.

Never prints: progress goes to a sink, results are values, the command line draws them.
"""
