"""What tests of workers share with those of pools."""

from tests.contracts.conftest import trial as trial
