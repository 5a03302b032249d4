# SPDX-License-Identifier: Apache-2.0
"""What tells whether words were said: flaws, repeats, crowds, gaps; which attempt is believed."""
