"""The interface of the agent (hotstart.proto) and the code generated from it."""
