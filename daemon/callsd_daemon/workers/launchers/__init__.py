# SPDX-License-Identifier: Apache-2.0
"""Ways to start a worker. The worker and its bootstrap are the same in each."""
