# SPDX-License-Identifier: Apache-2.0

from tests.outbox.fixtures import outbox, start_outbox, start_world, world


__all__ = ["outbox", "start_outbox", "start_world", "world"]
