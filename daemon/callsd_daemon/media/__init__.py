# SPDX-License-Identifier: Apache-2.0
"""Files that jobs read: by path inside the configured roots, or uploaded."""
