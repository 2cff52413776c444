"""These tests need a kernel that takes BPF programs: this machine's own may not; those of the virtual host do, as tests/vm shows."""

import pytest

from agentcgroup.kernel.libbpf import BpfError
from agentcgroup.policy import MonitorRule
from agentcgroup.sources.monitor import Monitor


@pytest.fixture(scope="session", autouse=True)
def _bpf_is_allowed() -> None:
    try:
        Monitor(MonitorRule()).close()
    except BpfError as error:
        pytest.skip(f"BPF can't be used here: {error.what}: {error.why}")
