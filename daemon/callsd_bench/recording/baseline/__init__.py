# SPDX-License-Identifier: Apache-2.0
"""How calls are recorded today."""
