"""Generates agent/proto/generated from hotstart.proto: ``python -m agent.proto.generate``.

A development tool: it needs grpcio-tools, which the installed product does not. The result is
committed, so that nobody needs a compiler to install Hotstart; tests/agent/test_proto.py fails
when it is older than the source. The compiler runs inside this process.
"""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("hotstart.proto")
PACKAGE = "agent/proto/generated"
"""Import path of the generated modules; the compiler derives imports from it."""


def compile_proto(output: Path, *, descriptor: Path | None = None) -> None:
    """Write the modules below ``output``, or only the descriptor set to ``descriptor``.

    Raises RuntimeError when the compiler refuses the source; it has then written why to stderr.
    """
    from grpc_tools import protoc  # a development dependency

    argv = ["protoc", f"-I{PACKAGE}={SOURCE.parent}"]
    if descriptor is not None:
        argv += [f"--descriptor_set_out={descriptor}"]
    else:
        argv += [f"--python_out={output}", f"--pyi_out={output}", f"--grpc_python_out={output}"]
    if protoc.main([*argv, f"{PACKAGE}/{SOURCE.name}"]) != 0:
        raise RuntimeError(f"{SOURCE}: the protocol compiler refused it")


def main() -> int:
    """Regenerate the committed modules."""
    compile_proto(SOURCE.parents[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
