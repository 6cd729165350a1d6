"""What the commands are tried on: packed samples, small models."""

from tests.conversion.conftest import make_model  # noqa: F401 - fixtures, here and below
from tests.data.conftest import pack, write_samples  # noqa: F401
from tests.evaluation.conftest import tiny_model  # noqa: F401
