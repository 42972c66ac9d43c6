"""The node agent: one process per root that owns containers, mounts and restores.

Only this package knows gRPC and Prometheus. The command line and the benchmark speak to it through
`agent.client`; orchestration lives in `runtime`.
"""
