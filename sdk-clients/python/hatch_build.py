"""Generates the contract's stubs from the repository's `proto/`, as part of every build.

Nothing generated is committed. A source distribution carries the proto files too, so that a wheel
can be built from it alone.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "kar/v1"
"""The public contract; the other packages under `proto/` are between sidecars."""

IMPORTED = ("google/rpc/status.proto", "google/rpc/error_details.proto")
"""What the contract imports and the generator does not bring along. Its Python modules come from
`googleapis-common-protos`."""


class ContractHook(BuildHookInterface[Any]):
    """Generates before the files of a distribution are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        protos = find_protos(root)
        generate(protos, root / "src")
        if self.target_name == "sdist":
            for name in (*contract(protos), *IMPORTED):
                if (protos / name).exists():
                    build_data["force_include"][str(protos / name)] = f"proto/{name}"


def find_protos(root: Path) -> Path:
    """The folder of the proto files: the sdist's own, or the repository's."""
    for folder in (root / "proto", root.parent.parent / "proto"):
        if (folder / PACKAGE).is_dir():
            return folder
    raise FileNotFoundError(f"no {PACKAGE} under proto/ here or in the repository: {root}")


def contract(protos: Path) -> list[str]:
    """Names of the contract's files, relative to `protos`."""
    return sorted(f"{PACKAGE}/{path.name}" for path in (protos / PACKAGE).glob("*.proto"))


def generate(protos: Path, target: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` below `target`."""
    from grpc_tools import protoc

    for stale in (target / PACKAGE).glob("*_pb2*"):
        stale.unlink()
    well_known = resources.files("grpc_tools") / "_proto"
    options = [f"-I{protos}", f"-I{well_known}"]
    options += [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    code = protoc.main(["protoc", *options, *contract(protos)])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}; its messages are above")
