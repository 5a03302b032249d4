# SPDX-License-Identifier: Apache-2.0

from tests.outbox.fixtures import start_world, world


__all__ = ["start_world", "world"]
