# SPDX-License-Identifier: Apache-2.0
"""Ways to start a worker. The worker and what it is told are the same in each."""
