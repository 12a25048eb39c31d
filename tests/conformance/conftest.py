"""Show what an assertion compared, also in the suite, which is a part of the package."""

import pytest

pytest.register_assert_rewrite("nightcrew.testing.conformance")
