"""Tests on real kernels, in the virtual host."""

import pytest

pytest.register_assert_rewrite("tests.vm.daemon", "tests.vm.harness")
