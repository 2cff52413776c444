"""Where the compiled BPF objects are."""

from pathlib import Path


def object_path(name: str) -> Path:
    """The object compiled from ``bpf/<name>.bpf.c``: in a checkout beside its source, installed inside the package."""
    checkout = Path(__file__).parent.parent.parent / "bpf"
    return (checkout if checkout.exists() else Path(__file__).parent.parent / "bpf") / f"{name}.bpf.o"
