# SPDX-License-Identifier: Apache-2.0
"""What the commands share. Knows none of them."""
