# SPDX-License-Identifier: Apache-2.0
"""Workers: starting them, talking to them, adopting them, ending them."""
