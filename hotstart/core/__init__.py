"""The words everyone shares. Imports the standard library only."""
