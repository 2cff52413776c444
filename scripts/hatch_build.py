"""Compiles the BPF objects into the wheel.  Without clang the wheel has none, and the process connector is used."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfObjects(BuildHookInterface):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if not shutil.which("clang") or not Path("/usr/include/bpf/bpf_helpers.h").exists():
            self.app.display_warning("no clang or libbpf headers: this wheel has no BPF monitor")
            return
        root = Path(self.root)
        subprocess.run([root / "scripts/bpf"], check=True)
        for compiled in root.glob("bpf/*.bpf.o"):
            build_data["force_include"][str(compiled)] = f"agentcgroup/bpf/{compiled.name}"
        # Any Python, but one architecture: the programs name its system calls.
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
