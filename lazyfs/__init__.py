"""Mounted images whose data arrives on demand: devices, the fill engine, and who keeps them alive.

Two sides. In the agent: Cache, KeeperGuard, ImageMounts, FillClient. In the fill worker, a process
of its own under the keeper: devices, the engine and the fanotify filler (worker.py wires them).
They meet in the keeper's sets, in the cache directory, and on run/fill.sock.
"""
