# SPDX-License-Identifier: Apache-2.0
"""Speech models: the catalogue, where they come from, and which are here and verified."""
